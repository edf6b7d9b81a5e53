"""weft: quantized and sparse neural networks on FPGA boards, and on their bit-exact simulation."""
