"""Everything about a model that an explanation could change, to be compared before and after."""

import copy

import torch


def state(model):
    """All that could change: tensors, flags, hooks and the names of attributes, module by module."""
    modules = {
        name: (
            id(module),
            type(module),
            module.training,
            sorted(vars(module)),
            {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")},
            {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float))},
        )
        for name, module in model.named_modules()
    }
    tensors = {
        name: (id(tensor), tensor.requires_grad, tensor._version, None if tensor.grad is None else tensor.grad.clone())
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    return modules, tensors, copy.deepcopy(model.state_dict())


def same(first, second):
    grads = all(
        torch.equal(one[3], other[3]) if one[3] is not None else other[3] is None
        for one, other in zip(first[1].values(), second[1].values())
    )
    return (
        first[0] == second[0]
        and [t[:3] for t in first[1].values()] == [t[:3] for t in second[1].values()]
        and grads
        and all(torch.equal(first[2][key], second[2][key]) for key in first[2])
    )
