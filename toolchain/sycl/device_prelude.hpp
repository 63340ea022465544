// What the device half of every source file includes first.
//
// On a SPIR-V target bfloat16.hpp leaves its conversions to a library of device functions, which icpx links in and this
// toolchain cannot. For other targets the header has them as plain code: it is read here as one of those. The headers
// that it includes come before, so that they see the target as it is.
#pragma once

#include <sycl/aliases.hpp>
#include <sycl/bit_cast.hpp>
#include <sycl/detail/defines_elementary.hpp>
#include <sycl/detail/export.hpp>
#include <sycl/half_type.hpp>

#pragma push_macro("__SPIR__")
#pragma push_macro("__SPIRV__")
#undef __SPIR__
#undef __SPIRV__
#define __AMDGCN__

#include <sycl/ext/oneapi/bfloat16.hpp>

#undef __AMDGCN__
#pragma pop_macro("__SPIR__")
#pragma pop_macro("__SPIRV__")

#include "precompiled.hpp"
