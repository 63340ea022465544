// Read bandwidth of a machine: threads sum up memory much larger than the caches, each a part that it wrote itself.
//
// usage: stream_read THREADS MIB PASSES     prints GB/s (10^9 bytes) of each pass

#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

struct part {
    uint64_t *words;
    size_t count;
    uint64_t sum;
};

static void *fill(void *argument) {
    struct part *part = argument;
    for (size_t i = 0; i < part->count; i++) {
        part->words[i] = i;
    }
    return NULL;
}

static void *read_all(void *argument) {
    struct part *part = argument;
    uint64_t sum = 0;
    for (size_t i = 0; i < part->count; i++) {
        sum += part->words[i];
    }
    part->sum = sum;
    return NULL;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static double run(void *(*work)(void *), struct part *parts, int threads) {
    pthread_t ids[threads];
    const double start = seconds();
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], NULL, work, &parts[i]) != 0) {
            fprintf(stderr, "cannot start %d threads\n", threads);
            exit(1);
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    return seconds() - start;
}

int main(int argc, char **argv) {
    const int threads = argc == 4 ? atoi(argv[1]) : 0;
    const int mib = argc == 4 ? atoi(argv[2]) : 0;
    if (threads < 1 || mib < 1) {
        fprintf(stderr, "usage: stream_read THREADS MIB PASSES\n");
        return 1;
    }
    struct part parts[threads];
    const size_t count = ((size_t) mib << 20) / sizeof(uint64_t) / threads;
    for (int i = 0; i < threads; i++) {
        const size_t bytes = count * sizeof(uint64_t);
        void *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (words == MAP_FAILED) {
            fprintf(stderr, "not enough memory for %d MiB\n", mib);
            return 1;
        }
#ifdef MADV_HUGEPAGE
        // prefetching ends at the end of a page
        madvise(words, bytes, MADV_HUGEPAGE);
#endif
        parts[i] = (struct part) {words, count, 0};
    }
    run(fill, parts, threads);
    for (int pass = 0; pass < atoi(argv[3]); pass++) {
        const double bytes = (double) threads * count * sizeof(uint64_t);
        printf("%.3f GB/s\n", 1e-9 * bytes / run(read_all, parts, threads));
    }
    // sums that nothing used would not be made
    for (int i = 0; i < threads; i++) {
        if (parts[i].sum != (uint64_t) count * (count - 1) / 2) {
            fprintf(stderr, "a sum is wrong: check the memory\n");
            return 1;
        }
    }
    return 0;
}
