"""The kernels of a mixture of experts compute what they should: their text in the emulator, beside
the same in float64."""

import pytest
import torch
from emulated import DTYPES, launch, noise, off

# (experts, experts of a token, groups, groups of a token, best of a group, scoring, normalised).
SIGMOID, SOFTMAX, SOFTMAX_OF_NARROW = 0, 1, 2
RULES = [
    (64, 6, 1, 1, 1, SOFTMAX, False),
    (64, 6, 1, 1, 1, SOFTMAX_OF_NARROW, True),
    (256, 8, 8, 4, 2, SIGMOID, True),
    (160, 6, 8, 3, 1, SOFTMAX, False),
    (8, 3, 4, 2, 2, SIGMOID, True),
    (8, 8, 1, 1, 1, SIGMOID, False),
]


def scores_of(logits, scoring, dtype):
    if scoring == SIGMOID:
        return logits.sigmoid()
    return (logits.to(dtype).float() if scoring == SOFTMAX_OF_NARROW else logits).softmax(-1)


def expected_choice(scores, bias, rule):
    """Experts by score and bias within the best groups: of equal ones the first, as a stable sort has
    them."""
    experts, per_token, groups, groups_per_token, best_of_group, *_ = rule
    choice = scores + bias
    if groups_per_token < groups:
        grouped = choice.view(-1, groups, experts // groups)
        best = grouped.topk(best_of_group, -1).values.sum(-1)
        kept = best.sort(dim=-1, descending=True, stable=True).indices[:, :groups_per_token]
        outside = torch.ones_like(best, dtype=torch.bool).scatter(1, kept, False)
        choice = grouped.masked_fill(outside[..., None], float("-inf")).view(-1, experts)
    return choice.sort(dim=-1, descending=True, stable=True).indices[:, :per_token]


def route(kernels, logits, bias, rule, live, bfloat16=0, factor=2.5, record=None, stride=0, step=1):
    experts, per_token, groups, groups_per_token, best_of_group, scoring, normalise = rule
    rows = len(logits)
    chosen = torch.full((rows, per_token), -1, dtype=torch.int32)
    gates = torch.full((rows, per_token), 9.0)
    launch(kernels("router.cu", bfloat16, EXPERTS=experts), "route", (rows, 1, 1), 32, logits, bias,
           torch.tensor([live], dtype=torch.int32), torch.tensor([step], dtype=torch.int32), chosen, gates,
           record, stride, per_token, groups, groups_per_token, best_of_group, scoring, int(normalise), factor)
    return chosen, gates


@pytest.mark.parametrize("bfloat16", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_a_router_chooses_and_weighs(kernels, rule, bfloat16):
    experts, per_token, *_, scoring, normalise = rule
    rows, live, factor = 9, 8, 2.5
    logits, bias = noise(rows, experts, seed=1), noise(experts, seed=2, scale=0.5)
    stride = 3 * per_token
    record = torch.full((2, rows, stride), -1, dtype=torch.int32)
    chosen, gates = route(kernels, logits, bias, rule, live, bfloat16, factor, record.view(-1)[per_token:], stride)
    scores = scores_of(logits, scoring, DTYPES[bfloat16])
    expected = expected_choice(scores, bias, rule)
    assert torch.equal(chosen[:live].long(), expected[:live])
    weights = scores_of(logits.double(), scoring, DTYPES[bfloat16]).gather(1, expected)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    assert off(gates[:live], factor * weights[:live]) < 1e-6
    assert (chosen[live:] == -1).all() and (gates[live:] == 9.0).all(), "a row that does not live was written"
    assert torch.equal(record[1, :live, per_token : 2 * per_token], chosen[:live])
    record[1, :live, per_token : 2 * per_token] = -1
    assert (record == -1).all(), "more than the step's experts was recorded"


def test_of_equal_experts_the_first_are_chosen(kernels):
    rule = (64, 6, 8, 4, 2, SIGMOID, True)
    logits = torch.zeros(3, 64)
    logits[1, 40:] = 1.0
    logits[2, 1::2] = 100.0  # more than the sigmoid tells apart
    chosen, _ = route(kernels, logits, None, rule, 3)
    expected = expected_choice(logits.sigmoid(), 0.0, rule)
    assert torch.equal(chosen.long(), expected)
    assert chosen[2].tolist() == [1, 3, 5, 7, 9, 11]


def test_a_score_that_is_not_a_number_is_chosen(kernels):
    logits = noise(2, 64, seed=3)
    logits[0, 17] = float("nan")
    chosen, gates = route(kernels, logits, None, (64, 6, 1, 1, 1, SIGMOID, True), 2)
    assert chosen[0, 0] == 17 and gates[0].isnan().all() and gates[1].isfinite().all()


def sort(kernels, chosen, live, experts):
    order = torch.full((chosen.numel(),), -1, dtype=torch.int32)
    starts = torch.full((experts + 1,), -1, dtype=torch.int32)
    launch(kernels("router.cu", 0, EXPERTS=experts), "sort_by_expert", (1, 1, 1), 1024, chosen,
           torch.tensor([live], dtype=torch.int32), order, starts, chosen.shape[1])
    return order, starts


@pytest.mark.parametrize("experts, per_token, rows, live", [(64, 6, 70, 66), (256, 8, 33, 33), (8, 3, 4, 1)])
def test_pairs_are_sorted_by_their_experts(kernels, experts, per_token, rows, live):
    generator = torch.Generator().manual_seed(rows)
    weights = torch.rand(experts).square()
    chosen = torch.multinomial(weights.expand(rows, -1), per_token, generator=generator).int()
    order, starts = sort(kernels, chosen, live, experts)
    of_pair = chosen[:live].reshape(-1).long()
    assert torch.equal(order[: len(of_pair)].long(), of_pair.sort(stable=True).indices)
    assert (order[len(of_pair) :] == -1).all()
    counts = torch.bincount(of_pair, minlength=experts)
    assert torch.equal(starts.long(), torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]))


class Tokens:
    """Tokens with experts of which one has none, one a few, and one more than read a matrix once."""

    def __init__(self, dtype, inner, outer, rows=60):
        self.dtype, self.experts, self.per_token, self.live = dtype, 5, 2, rows - 1
        self.x = noise(rows, inner, seed=1, dtype=dtype)
        self.gate_up = noise(self.experts, 2 * outer, inner, seed=2, dtype=dtype, scale=inner**-0.5)
        self.down = noise(self.experts, inner, outer, seed=3, dtype=dtype, scale=outer**-0.5)
        first = torch.tensor([0] * 52 + [1] * 3 + [3] * (rows - 55))
        second = torch.tensor([4] * 20 + [3] * 11 + [1] * (rows - 31))
        second[first == second] = 4
        self.chosen = torch.stack([first, second], 1).int()

    def expected(self):
        """Of all pairs, float64: what is between the products, rounded, and the outputs of that."""
        rows, experts = self.x.double(), self.chosen.long()
        gate, up = torch.einsum("td,tkod->tko", rows, self.gate_up.double()[experts]).chunk(2, -1)
        between = torch.nn.functional.silu(gate) * up
        return between, lambda between: torch.einsum("tko,tkdo->tkd", between.double(), self.down.double()[experts])

    def general(self, kernels):
        library = kernels("experts.cu", int(self.dtype == torch.bfloat16))
        (rows, inner), outer = self.x.shape, self.down.shape[2]
        live, pairs = torch.tensor([self.live], dtype=torch.int32), rows * self.per_token
        between = torch.full((rows, self.per_token, outer), 9.0, dtype=self.dtype)
        outputs = torch.full((rows, self.per_token, inner), 9.0, dtype=self.dtype)
        launch(library, "gate_any", (pairs, 2, 1), 256, self.x, self.chosen, live, self.gate_up, between,
               self.per_token, inner, outer)
        launch(library, "down_any", (pairs, 2, 1), 256, between, self.chosen, live, self.down, outputs,
               self.per_token, outer, inner)
        return between, outputs

    def on_tensor_cores(self, kernels, blocks):
        library = kernels("experts_mma.cu", 1)
        (rows, inner), outer = self.x.shape, self.down.shape[2]
        order, starts = sort(kernels, self.chosen, self.live, self.experts)
        pairs = rows * self.per_token
        sorted_between = torch.full((pairs, outer), 9.0, dtype=self.dtype)
        outputs = torch.full((pairs, inner), 9.0, dtype=self.dtype)
        launch(library, f"gate_{blocks}", (-(-outer // 64), self.experts, 1), 128, self.x, self.gate_up, order,
               starts, sorted_between, self.per_token, inner, outer)
        launch(library, f"down_{blocks}", (-(-inner // 128), self.experts, 1), 128, sorted_between, self.down,
               order, starts, outputs, self.per_token, outer, inner)
        between = torch.full((pairs, outer), 9.0, dtype=self.dtype)
        lives = order >= 0
        between[order[lives].long()] = sorted_between[lives]
        return between.view(rows, self.per_token, -1), outputs.view(rows, self.per_token, -1)

    def check(self, found, tolerance):
        (between, outputs), live = found, self.live
        expected, down = self.expected()
        assert off(between[:live], expected[:live]) < tolerance
        assert off(outputs[:live], down(between)[:live]) < tolerance
        assert (between[live:] == 9.0).all() and (outputs[live:] == 9.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_for_all_dtypes(kernels, dtype):
    tokens = Tokens(dtype, 40, 24)
    tokens.check(tokens.general(kernels), 1e-6 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize("blocks", [3, 4])
@pytest.mark.parametrize("inner, outer", [(128, 64), (192, 128)])
def test_experts_on_tensor_cores(kernels, inner, outer, blocks):
    tokens = Tokens(torch.bfloat16, inner, outer)
    tokens.check(tokens.on_tensor_cores(kernels, blocks), 8e-3)


@pytest.mark.parametrize("with_shared", [False, True])
@pytest.mark.parametrize("bfloat16", [0, 1])
def test_outputs_are_combined_by_their_gates(kernels, bfloat16, with_shared):
    dtype, rows, live, per_token, width = DTYPES[bfloat16], 5, 4, 6, 264
    outputs, hidden = (noise(*shape, seed=9, dtype=dtype) for shape in [(rows, per_token, width), (rows, width)])
    gates = noise(rows, per_token, seed=10).abs()
    shared = noise(rows, width, seed=11, dtype=dtype) if with_shared else None
    found = hidden.clone()
    launch(kernels("router.cu", bfloat16, EXPERTS=8), "combine", (rows, 1, 1), 256, outputs, gates, shared,
           torch.tensor([live], dtype=torch.int32), found, per_token, width)
    expected = hidden.double() + torch.einsum("tk,tkd->td", gates.double(), outputs.double())
    expected += shared.double() if with_shared else 0.0
    assert off(found[:live], expected[:live]) < (6e-3 if bfloat16 else 1e-6)
    assert torch.equal(found[live:], hidden[live:])
