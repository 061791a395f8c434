"""Tables of JAX's primitives, by how an error crosses them."""


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


PRODUCTS = _names("dot_general conv_general_dilated ragged_dot_general ragged_dot")
"""Bilinear in the first two operands. With data and a weight as operands: a weight layer."""

CALLS = _names("jit pjit closed_call core_call")
"""Calls of a function that is traced already; they are opened."""

REMAT = _names("checkpoint remat remat2")
"""Calls of a function that the backward pass runs again."""

STEPS = _names("sign floor ceil round eq ne lt le gt ge is_finite")
"""Elementwise, and flat between steps."""

NONLINEAR = STEPS | _names(
    "tanh logistic erf erfc erf_inv exp exp2 log log1p expm1 sin cos tan asin acos atan atan2 sinh",
    "cosh asinh acosh atanh sqrt rsqrt cbrt integer_pow square pow abs max min clamp select_n div",
    "rem nextafter lgamma digamma bessel_i0e bessel_i1e",
)
"""Elementwise, and not linear in at least one operand."""

LINEAR = _names(
    "neg add sub mul convert_element_type copy stop_gradient reduce_precision real add_any",
    "optimization_barrier and or not xor",
)
"""Elementwise, and linear in each operand."""

MOVES = _names(
    "broadcast_in_dim reshape squeeze expand_dims transpose rev slice dynamic_slice pad",
    "concatenate split gather",
)
"""Move numbers without changing them."""

SUMS = _names("reduce_sum cumsum scatter-add reduce_window_sum")
"""Add numbers of one operand."""

REDUCTIONS = SUMS | _names(
    "reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin cumlogsumexp cummax",
    "cumprod cummin",
)
"""Combine numbers of one operand."""

HARMLESS = _names(
    "dynamic_update_slice scatter scatter-mul select_and_gather_add top_k sort iota random_bits",
    "random_wrap random_unwrap random_fold_in random_split threefry2x32 imag complex conj",
    "reduce_window_max reduce_window select_and_scatter_add debug_callback pvary pbroadcast psum",
    "psum_invariant all_gather reduce_scatter ppermute axis_index sharding_constraint mesh_cast",
)
"""Other primitives in which a weight and data may meet without being multiplied and summed."""

ELEMENTWISE = NONLINEAR | LINEAR
KNOWN = PRODUCTS | ELEMENTWISE | MOVES | REDUCTIONS | HARMLESS
