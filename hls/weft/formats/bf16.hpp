/// bf16: the code is the operand, the upper half of a float32.
#pragma once
#include "types.hpp"
