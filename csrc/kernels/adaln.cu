#include "adaln.cuh"

#include "../common/entry.cuh"
#include "adaln.inl"
