"""A SYCL compiler for tests on the CPU, made of pinned wheels and Debian's clang; see README.md beside this folder."""
