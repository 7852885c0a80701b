"""The optimiser of a recipe: what goes to Muon and what to AdamW, and that a saved one goes on as if unbroken."""

import copy

import pytest
import torch
from toys.task import toy_recipe

from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration
from rscc_hf.training.engine.optimisation import MuonIn, build_optimizer, build_schedule, log_name, orthogonal
from rscc_hf.training.engine.task import Part


class Net(torch.nn.Module):
    """An embedding, a kernel, two linear layers and a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(5, 6)
        self.kernel = torch.nn.Conv1d(6, 6, 1)
        self.first = torch.nn.Linear(6, 9)
        self.norm = torch.nn.LayerNorm(9)
        self.last = torch.nn.Linear(9, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Any number that depends on every parameter."""
        return self.last(self.norm(self.first(self.kernel(self.words(ids).transpose(1, 2)).transpose(1, 2)))).square()


def recipe_of(tmp_path, **changes):
    return toy_recipe(tmp_path, optimizer="muon", learning_rate=0.01, weight_decay=0.1, **changes)


def parts_of(net):
    front = [*net.words.parameters(), *net.kernel.parameters()]
    back = [parameter for layer in (net.first, net.norm, net.last) for parameter in layer.parameters()]
    return [Part("front", front, 0.01), Part("back", back, 0.02)]


def steps(net, optimizer, count, schedule=None):
    for number in range(count):
        optimizer.zero_grad()
        net(torch.tensor([[number % 5, 1, 2]])).mean().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def test_muon_takes_the_matrices_of_linear_layers_and_adamw_the_rest(tmp_path):
    """One optimiser of the recipe's moves every parameter as torch's own two do."""
    ours, theirs = Net(), Net()
    optimizer = build_optimizer(parts_of(ours), recipe_of(tmp_path, muon_learning_rate_ratio=3.0), ours)
    muon = torch.optim.Muon(
        [theirs.first.weight, theirs.last.weight], lr=0.06, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    vectors = [theirs.first.bias, theirs.norm.weight, theirs.norm.bias, theirs.last.bias]
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs.words.weight, theirs.kernel.weight], "lr": 0.01, "weight_decay": 0.1},
            {"params": [theirs.kernel.bias], "lr": 0.01, "weight_decay": 0.0},
            {"params": vectors, "lr": 0.02, "weight_decay": 0.0},
        ]
    )
    steps(ours, optimizer, 3)
    for number in range(3):
        theirs.zero_grad()
        theirs(torch.tensor([[number % 5, 1, 2]])).mean().backward()
        muon.step()
        adamw.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name
    names = {log_name(group) for group in optimizer.param_groups}
    assert names == {"front", "back", "back/muon"}


def test_a_saved_muon_goes_on_as_if_unbroken(tmp_path):
    """Momentum, moments and the schedule's learning rates all come back."""

    def fresh(net):
        optimizer = build_optimizer(parts_of(net), recipe_of(tmp_path, schedule="one_cycle"), net)
        return optimizer, build_schedule(optimizer, recipe_of(tmp_path, schedule="one_cycle"), 10)

    whole = Net()
    optimizer, schedule = fresh(whole)
    steps(whole, optimizer, 4, schedule)
    broken = copy.deepcopy(whole)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    steps(whole, optimizer, 4, schedule)

    optimizer, schedule = fresh(broken)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    steps(broken, optimizer, 4, schedule)
    for (name, one), other in zip(whole.named_parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_output_projection_of_a_model_stays_with_adamw(tmp_path):
    """Muon's authors leave embeddings and the layer that gives the output to AdamW."""
    backbone = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    model = MModalCCForConditionalGeneration(
        MModalCCConfig(modalities="rgb", rgb_backbone_config=backbone, backbone_stages=1, d_model=16, vocab_size=9)
    )
    parameters = list(model.parameters())
    optimizer = build_optimizer([Part("all", parameters, 0.01)], recipe_of(tmp_path), model)
    by_muon = {id(each) for group in optimizer.param_groups if group["muon"] for each in group["params"]}
    assert id(model.lm_head.weight) not in by_muon
    assert id(model.decoder.embed_tokens.weight) not in by_muon
    assert id(model.decoder.layers[0].linear1.weight) in by_muon
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(parameters)


@pytest.mark.parametrize("ratio", [0, -1.0])
def test_the_ratio_must_be_positive(tmp_path, ratio):
    with pytest.raises(ValueError, match="muon_learning_rate_ratio"):
        recipe_of(tmp_path, muon_learning_rate_ratio=ratio)


SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5), (33, 17)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_in_bfloat16_has_the_bits_of_torchs(decay):
    """Weights and state after several steps; the groups are torch's too, so that checkpoints stay readable."""
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    mine = MuonIn([{"params": ours, "lr": 0.02, "weight_decay": decay}], torch.bfloat16)
    muon = torch.optim.Muon(theirs, lr=0.02, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        mine.step()
        muon.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(mine.state[one]["momentum_buffer"], muon.state[other]["momentum_buffer"])
    assert mine.state_dict()["param_groups"] == muon.state_dict()["param_groups"]


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_in_float32_makes_directions_orthogonal(shape):
    """The singular values of a well-conditioned matrix come near 1, its singular vectors stay."""
    generator = torch.Generator().manual_seed(1)
    left, values, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrix = left * (1 + values / values.max()) @ right
    group = MuonIn([torch.nn.Parameter(matrix.clone())], torch.float32).param_groups[0]
    result = orthogonal(matrix, torch.float32, group["ns_coefficients"], group["ns_steps"], group["eps"])
    assert result.dtype == torch.float32
    inner = left.T @ result @ right.T
    torch.testing.assert_close(inner, inner.diag().diag(), rtol=0, atol=1e-4)
    assert inner.diag().min() > 0.65 and inner.diag().max() < 1.25
    half = orthogonal(matrix, torch.bfloat16, group["ns_coefficients"], group["ns_steps"], group["eps"])
    torch.testing.assert_close(half.float(), result, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.bfloat16)]
)
def test_the_recipe_says_muons_format(tmp_path, name, dtype):
    net = Net()
    optimizer = build_optimizer(parts_of(net), recipe_of(tmp_path, muon_dtype=name), net)
    [muon] = [member for by_muon, member in optimizer.members if by_muon]
    assert muon.dtype == dtype
    steps(net, optimizer, 2)
