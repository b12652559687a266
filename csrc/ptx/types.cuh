// Element types as tags: they pick the overload of an instruction.
#pragma once

namespace ptx {

struct Bf16Type {};
struct F16Type {};

}  // namespace ptx
