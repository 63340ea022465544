# What find_package(MKL) finds in place of oneMKL: the functions of blas.cpp under the name of oneMKL's target.
# Like that one it brings the SYCL runtime to programs that are linked with a static library of kernels.
set(WHEELS ${CMAKE_CURRENT_LIST_DIR}/../../../.venv-sycl)
if (DEFINED ENV{SYCL_VENV})
    set(WHEELS $ENV{SYCL_VENV})
endif()
find_path(MKL_HEADERS oneapi/mkl/blas.hpp REQUIRED PATHS ${WHEELS}/include NO_DEFAULT_PATH)
find_library(SYCL_RUNTIME sycl REQUIRED PATHS ${WHEELS}/lib NO_DEFAULT_PATH)

# no kernels in it: plain C++
add_library(mkl_stub STATIC ${CMAKE_CURRENT_LIST_DIR}/blas.cpp)
# not PUBLIC: syclcc reads the wheels' headers anyway, and an absolute path would hide what ccache has of other checkouts
target_include_directories(mkl_stub SYSTEM PRIVATE ${MKL_HEADERS})
target_compile_definitions(mkl_stub PRIVATE SYCL_DISABLE_FSYCL_SYCLHPP_WARNING)
target_compile_options(mkl_stub PRIVATE -w)
target_link_libraries(mkl_stub PUBLIC ${SYCL_RUNTIME})
add_library(MKL::MKL_SYCL::BLAS ALIAS mkl_stub)
set(MKL_FOUND TRUE)
