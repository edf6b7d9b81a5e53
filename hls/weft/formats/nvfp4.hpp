/// NVFP4: elements are E2M1; the E4M3 scale of a group of 16 is applied behind (scales.hpp).
#pragma once
#include "formats/minifloat.hpp"
