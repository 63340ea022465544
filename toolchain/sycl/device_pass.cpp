// sycl-device-pass FOLDER HEADER PRECOMPILED SOURCE [OPTION...]
//
// The device half of compiling one SYCL source file. The front end is the one inside libsycl-jit.so, which the
// extension sycl_ext_oneapi_kernel_compiler offers to programs: it is meant for kernels given as text at run time,
// but takes any translation unit, and finds the lambda kernels in its host functions too.
//
// HEADER is included first: the front end takes no -include. What it makes of HEADER is kept in PRECOMPILED for the next
// file with the same options. Written are FOLDER/kernel-N.spv, a SPIR-V module for each kernel, in no particular order,
// FOLDER/integration.h, which tells the host half the names and arguments of the kernels, and FOLDER/device.d, a
// dependency file. The exit status is 0, 1 if the source does not compile, 2 for anything else.

#include <fcntl.h>
#include <sycl/sycl.hpp>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace fs    = std::filesystem;
namespace syclx = sycl::ext::oneapi::experimental;

// The bytes of an image are public in bundles that can run, and to get there every kernel would be compiled for the
// CPU: minutes for a large file. Bundles in object state hold the same bytes behind a protected member.
struct image_access : sycl::detail::device_image_plain {
    static auto bytes(const sycl::detail::device_image_plain & image) {
        return (image.*(&image_access::ext_oneapi_get_backend_content_view_impl))();
    }
};

static auto compile(const std::string & text, const std::vector<std::string> & options, std::string & messages) {
    const sycl::context context{ sycl::device{ sycl::cpu_selector_v } };
    auto bundle = syclx::create_kernel_bundle_from_source(context, syclx::source_language::sycl, text);
    return syclx::compile(bundle, syclx::properties{ syclx::save_log{ &messages }, syclx::build_options{ options } });
}

// After a precompiled header ESIMD kernels are built for the device, which a CPU cannot do. The messages of what does not
// compile are those of the second time.
static auto compile_precompiled(const std::string & text, const std::vector<std::string> & options, const std::string & precompile, std::string & messages) {
    try {
        std::vector<std::string> all = options;
        all.push_back(precompile);
        return compile(text, all, messages);
    } catch (const sycl::exception &) {
        messages.clear();
        return compile(text, options, messages);
    }
}

// The path stays as it was given, so that the files which this one includes have relative names if it has one.
static std::string include(const std::string & path) {
    return "#include \"" + path + "\"\n";
}

// A name of the folder that is the same in every process, or no other would have the same options.
static std::string constant_name(const fs::path & folder) {
    const int file = fcntl(open(folder.c_str(), O_RDONLY | O_DIRECTORY), F_DUPFD, 100);
    return "/proc/self/fd/" + std::to_string(file);
}

int main(int argc, char ** argv) {
    if (argc < 5) {
        std::cerr << "usage: sycl-device-pass FOLDER HEADER PRECOMPILED SOURCE [OPTION...]\n";
        return 2;
    }
    const fs::path    folder = argv[1];
    const std::string here   = constant_name(folder);
    std::vector<std::string> options(argv + 5, argv + argc);
    // one module per kernel: at run time only those that a program uses are compiled for the device
    options.push_back("-fsycl-device-code-split=per_kernel");
    // the host half passes every argument that a lambda captures
    options.push_back("-fno-sycl-dead-args-optimization");
    options.push_back("-Xclang");
    options.push_back("-fsycl-int-header=" + here + "/integration.h");
    options.insert(options.end(), { "-MD", "-MF", here + "/device.d" });

    const std::string precompile = std::string("--persistent-auto-pch=") + argv[3];

    // a declaration ends what is precompiled: the directives before the first one
    const std::string text = include(argv[2]) + "static_assert(true);\n" + include(argv[4]);
    std::string       messages;
    try {
        const auto objects = compile_precompiled(text, options, precompile, messages);
        int number = 0;
        for (const auto & image : objects) {
            const auto [begin, end] = image_access::bytes(image);
            std::ofstream file(folder / ("kernel-" + std::to_string(number++) + ".spv"), std::ios::binary);
            file.write(reinterpret_cast<const char *>(begin), end - begin);
            if (!file.flush()) {
                std::cerr << "sycl-device-pass: cannot write into " << folder << "\n";
                return 2;
            }
        }
    } catch (const sycl::exception & error) {
        std::cerr << error.what() << "\n" << messages;
        return error.code() == sycl::errc::build ? 1 : 2;
    }
    std::cerr << messages;
    return 0;
}
