"""What private parts of torch do that the training loop rests on."""

import torch


def test_foreach_lerp_moves_each_tensor_by_a_share_of_the_way():
    start, end = [torch.tensor([0.0, 4.0]), torch.tensor([[1.0]])], [torch.tensor([8.0, 4.0]), torch.tensor([[3.0]])]
    torch._foreach_lerp_(start, end, 0.25)
    assert [tensor.tolist() for tensor in start] == [[2.0, 4.0], [[1.5]]]
    assert [tensor.tolist() for tensor in end] == [[8.0, 4.0], [[3.0]]]
