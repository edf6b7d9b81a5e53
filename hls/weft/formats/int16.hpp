/// int16, two's complement: the code is the operand.
#pragma once
#include "types.hpp"
