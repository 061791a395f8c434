"""Steps of the rules against backprop's; `python benchmarks` measures and writes them."""
