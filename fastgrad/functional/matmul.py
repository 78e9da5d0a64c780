"""Matrix products: matmul, mm, bmm, linear."""

from __future__ import annotations

from fastgrad.functional._define import define

__all__ = ["bmm", "linear", "matmul", "mm"]

mm = define(
    "mm",
    """
mm(input, mat2, *, out=None) -> Tensor

Return the matrix product input @ mat2. See :func:`torch.mm`. float16 and bfloat16 are summed in float32.

Args:
    input (Tensor): (M, K), any strides; any real dtype but bool.
    mat2 (Tensor): (K, N), of the same dtype.
    out (Tensor, optional): (M, N), of the same dtype: where to write the result. It must not overlap an operand.

Raises:
    RuntimeError: an operand is no matrix, the inner sizes or the dtypes differ, or `out` overlaps an operand.
    NotImplementedError: the dtype is bool or complex.
""",
)

bmm = define(
    "bmm",
    """
bmm(input, mat2, *, out=None) -> Tensor

Return the matrix product of each pair of matrices: out[i] = input[i] @ mat2[i]. See :func:`torch.bmm`.

Args:
    input (Tensor): (B, M, K), any strides; any real dtype but bool.
    mat2 (Tensor): (B, K, N), of the same dtype.
    out (Tensor, optional): (B, M, N), of the same dtype: where to write the result. It must not overlap an operand.

Raises:
    RuntimeError: an operand is not 3-D, sizes or dtypes differ, or `out` overlaps an operand.
    NotImplementedError: the dtype is bool or complex.
""",
)

matmul = define(
    "matmul",
    """
matmul(input, other, *, out=None) -> Tensor

Return the product of two tensors: of two vectors (0-D), of a matrix and a vector, of two matrices, or of two stacks
of matrices whose batch dimensions broadcast. See :func:`torch.matmul`.

Args:
    input (Tensor): (K), or (..., M, K), any strides; any real dtype but bool.
    other (Tensor): (K), or (..., K, N), of the same dtype.
    out (Tensor, optional): where to write the result, of the same dtype. It must not overlap an operand.

Raises:
    RuntimeError: an operand is 0-D, the inner sizes or the dtypes differ, the batch dimensions do not broadcast, or
        `out` overlaps an operand.
    NotImplementedError: the dtype is bool or complex.
""",
)

linear = define(
    "linear",
    """
linear(input, weight, bias=None, *, activation=None) -> Tensor

Return activation(input @ weight.T + bias), in one pass. See :func:`torch.nn.functional.linear`.

Args:
    input (Tensor): (..., in_features), any strides; any real dtype but bool.
    weight (Tensor): (out_features, in_features) or (in_features), of the same dtype.
    bias (Tensor, optional): (out_features), (1) or (), of the same dtype.
    activation (str, optional): "relu", "sigmoid" or "tanh", applied to the sum before it is rounded to the dtype.
        Not for integers.

Raises:
    RuntimeError: sizes or dtypes differ.
    NotImplementedError: the activation is another one, the bias has more dimensions, or the dtype is bool or complex.
""",
)
