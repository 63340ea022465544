// What nearly every source file with kernels includes, and what takes most of the time of reading one: read once, kept
// as precompiled headers of both halves.
#pragma once

#include <sycl/sycl.hpp>
#include <oneapi/mkl.hpp>
