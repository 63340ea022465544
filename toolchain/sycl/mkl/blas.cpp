// The functions of oneMKL that ggml-sycl calls, for tests on the CPU device: memory of that device can be read by the
// host, so each is a loop here. They wait for the queue, compute, and return an event that is over. Right, and slow;
// what a test of a matrix product by oneMKL says about oneMKL is nothing.

#include <oneapi/mkl/blas.hpp>
#include <sycl/sycl.hpp>

#include <complex>
#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace oneapi::mkl::blas::column_major {

using index  = std::int64_t;
using events = std::vector<sycl::event>;

using cfloat  = std::complex<float>;
using cdouble = std::complex<double>;

// What the products of a result of type T are added up in: half and integer results in floats.
template <typename T>
using sum_type = std::conditional_t<std::is_same_v<T, double> || std::is_same_v<T, cfloat> || std::is_same_v<T, cdouble>,
                                    T, float>;

// A column-major matrix, as it is or transposed.
template <typename T> struct matrix {
    const T * data;
    index     stride;
    bool      transposed;

    const T & operator()(index row, index column) const {
        return transposed ? data[column + row * stride] : data[row + column * stride];
    }
};

template <typename T> static matrix<T> view(transpose how, const T * data, index stride) {
    return { data, stride, how != transpose::nontrans };
}

static void wait_for(sycl::queue & queue, const events & before) {
    sycl::event::wait(before);
    queue.wait();
}

// c = alpha * a * b + beta * c, where c has m rows and n columns; c is not read if beta is 0
template <typename A, typename B, typename C, typename S>
static void multiply(index m, index n, index k, S alpha, matrix<A> a, matrix<B> b, S beta, C * c, index ldc) {
    using sum = sum_type<C>;
    for (index column = 0; column < n; column++) {
        for (index row = 0; row < m; row++) {
            sum result = 0;
            for (index i = 0; i < k; i++) {
                result += sum(a(row, i)) * sum(b(i, column));
            }
            result *= sum(alpha);
            C & target = c[row + column * ldc];
            if (sum(beta) != sum(0)) {
                result += sum(beta) * sum(target);
            }
            target = C(result);
        }
    }
}

template <typename A, typename B, typename C, typename S>
static sycl::event gemm_one(sycl::queue & queue, transpose ta, transpose tb, index m, index n, index k, S alpha,
                            const A * a, index lda, const B * b, index ldb, S beta, C * c, index ldc,
                            const events & before) {
    wait_for(queue, before);
    multiply(m, n, k, alpha, view(ta, a, lda), view(tb, b, ldb), beta, c, ldc);
    return {};
}

template <typename A, typename B, typename C, typename S>
static sycl::event gemm_strided(sycl::queue & queue, transpose ta, transpose tb, index m, index n, index k, S alpha,
                                const A * a, index lda, index stride_a, const B * b, index ldb, index stride_b, S beta,
                                C * c, index ldc, index stride_c, index batch, const events & before) {
    wait_for(queue, before);
    for (index i = 0; i < batch; i++) {
        multiply(m, n, k, alpha, view(ta, a + i * stride_a, lda), view(tb, b + i * stride_b, ldb), beta,
                 c + i * stride_c, ldc);
    }
    return {};
}

// Groups of products; those of one group have sizes, factors and transpositions in common.
template <typename A, typename B, typename C, typename S>
static sycl::event gemm_grouped(sycl::queue & queue, const transpose * ta, const transpose * tb, const index * m,
                                const index * n, const index * k, const S * alpha, const A ** a, const index * lda,
                                const B ** b, const index * ldb, const S * beta, C ** c, const index * ldc,
                                index groups, const index * group_size, const events & before) {
    wait_for(queue, before);
    for (index g = 0, i = 0; g < groups; g++) {
        for (const index end = i + group_size[g]; i < end; i++) {
            multiply(m[g], n[g], k[g], alpha[g], view(ta[g], a[i], lda[g]), view(tb[g], b[i], ldb[g]), beta[g], c[i],
                     ldc[g]);
        }
    }
    return {};
}

// The functions as oneMKL declares them, for the four types of a, b, c and the factors. Those after the first five are
// there because ggml-sycl refers to them.
#define GEMM(A, B, C, S)                                                                                               \
    sycl::event gemm(sycl::queue & queue, transpose ta, transpose tb, index m, index n, index k,                       \
                     value_or_pointer<S> alpha, const A * a, index lda, const B * b, index ldb,                        \
                     value_or_pointer<S> beta, C * c, index ldc, compute_mode, const events & before) {                \
        return gemm_one<A, B, C, S>(queue, ta, tb, m, n, k, alpha.get(), a, lda, b, ldb, beta.get(), c, ldc, before);  \
    }                                                                                                                  \
    sycl::event gemm_batch(sycl::queue & queue, transpose ta, transpose tb, index m, index n, index k,                 \
                           value_or_pointer<S> alpha, const A * a, index lda, index stride_a, const B * b, index ldb,  \
                           index stride_b, value_or_pointer<S> beta, C * c, index ldc, index stride_c, index batch,    \
                           compute_mode, const events & before) {                                                      \
        return gemm_strided<A, B, C, S>(queue, ta, tb, m, n, k, alpha.get(), a, lda, stride_a, b, ldb, stride_b,       \
                                        beta.get(), c, ldc, stride_c, batch, before);                                  \
    }                                                                                                                  \
    sycl::event gemm_batch(sycl::queue & queue, const transpose * ta, const transpose * tb, const index * m,           \
                           const index * n, const index * k, const S * alpha, const A ** a, const index * lda,         \
                           const B ** b, const index * ldb, const S * beta, C ** c, const index * ldc, index groups,   \
                           const index * group_size, compute_mode, const events & before) {                            \
        return gemm_grouped<A, B, C, S>(queue, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, groups,           \
                                        group_size, before);                                                           \
    }

GEMM(float, float, float, float)
GEMM(sycl::half, sycl::half, sycl::half, sycl::half)
GEMM(sycl::half, sycl::half, float, float)
GEMM(bfloat16, bfloat16, bfloat16, float)
GEMM(bfloat16, bfloat16, float, float)
GEMM(double, double, double, double)
GEMM(cfloat, cfloat, cfloat, cfloat)
GEMM(cdouble, cdouble, cdouble, cdouble)
GEMM(std::int8_t, std::int8_t, std::int32_t, float)
GEMM(std::int8_t, std::int8_t, float, float)

// Solves x * a = alpha * b for x, which replaces b; a is upper triangular. No other case is in use.
sycl::event trsm_batch(sycl::queue & queue, side where, uplo half, transpose ta, diag unit, index m, index n,
                       value_or_pointer<float> alpha, const float * a, index lda, index stride_a, float * b, index ldb,
                       index stride_b, index batch, compute_mode, const events & before) {
    if (where != side::right || half != uplo::upper || ta != transpose::nontrans || unit != diag::nonunit) {
        throw std::invalid_argument("trsm_batch: only a right-hand upper triangular matrix is supported");
    }
    wait_for(queue, before);
    for (index i = 0; i < batch; i++, a += stride_a, b += stride_b) {
        for (index column = 0; column < n; column++) {
            for (index row = 0; row < m; row++) {
                float value = alpha.get() * b[row + column * ldb];
                for (index k = 0; k < column; k++) {
                    value -= b[row + k * ldb] * a[k + column * lda];
                }
                b[row + column * ldb] = value / a[column + column * lda];
            }
        }
    }
    return {};
}

}  // namespace oneapi::mkl::blas::column_major
