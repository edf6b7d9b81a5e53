/// A codebook: the code is an index; its entries come with the weights (units/decode.hpp).
#pragma once
#include "types.hpp"
