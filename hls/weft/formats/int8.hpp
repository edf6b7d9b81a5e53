/// int8, two's complement: the code is the operand. (Signed<8> decodes it where pairs want a term.)
#pragma once
#include "formats/integer.hpp"
