"""Evolution strategies, each held to its formula or to another implementation of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from baselines.gaussian_search import (
    SNES,
    OpenES,
    Strategy,
    centred_ranks,
    natural_utilities,
    raw_fitness,
    softmax_utilities,
)

DIM = 6
START = torch.linspace(-1.0, 1.5, DIM)
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "open_es": lambda: OpenES(START, sigma=0.1, learning_rate=0.05),
    "snes": lambda: SNES(START, sigma=0.5),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def climb(strategy: Strategy, fitness: Callable[[Tensor], Tensor], steps: range) -> None:
    for step in steps:
        noise = strategy.draw(32, generator(step))
        strategy.update(noise, fitness(strategy.candidates(noise)))


def sphere(candidates: Tensor) -> Tensor:
    """Highest, 0, at the vector of threes."""
    return -(candidates - 3).square().sum(1).double()


# --- OpenES -----------------------------------------------------------------------------------


def test_antithetic_candidates_are_exact_mirror_images() -> None:
    strategy = OpenES(torch.zeros(DIM), sigma=0.3, learning_rate=0.1)
    noise = strategy.draw(10, generator())
    assert noise.shape == (10, DIM)
    assert noise[:5].equal(-noise[5:])
    assert strategy.candidates(noise)[:5].equal(-strategy.candidates(noise)[5:])
    assert not noise[0].equal(noise[1])


def test_an_odd_population_has_no_mirror_image() -> None:
    with pytest.raises(ValueError, match="population is 7"):
        STRATEGIES["open_es"]().draw(7, generator())


def test_open_es_estimates_the_gradient_of_a_quadratic_within_its_statistical_error() -> None:
    population = 20_000
    factor = torch.randn(DIM, DIM, generator=generator(1))
    hessian = factor @ factor.T / DIM
    slope = torch.randn(DIM, generator=generator(2))

    def fitness(candidates: Tensor) -> Tensor:
        curved = ((candidates @ hessian) * candidates).sum(1) / 2
        return candidates @ slope - curved

    strategy = OpenES(START, sigma=0.2, learning_rate=0.1, shaping=raw_fitness)
    noise = strategy.draw(population, generator(3))
    estimate = strategy.gradient(noise, fitness(strategy.candidates(noise)))
    # Smoothing shifts a quadratic by a constant: the gradient in the mean is that of the fitness.
    exact = slope - hessian @ START
    # A mirrored pair gives eps (eps . g), whose variance is |g|^2 + g_i^2 in component i.
    error = ((exact.square().sum() + exact.square()) / (population / 2)).sqrt()
    assert (error < 0.1 * exact.norm()).all()
    assert ((estimate - exact).abs() < 4.5 * error).all()


@pytest.mark.parametrize("beta1", [0.9, 0.99])
def test_open_es_climbs_as_torchs_adam_does(beta1: float) -> None:
    strategy = OpenES(START, sigma=0.1, learning_rate=0.03, beta1=beta1)
    parameter = START.clone()
    adam = torch.optim.Adam([parameter], lr=0.03, betas=(beta1, 0.999), maximize=True)
    for step in range(20):
        noise = strategy.draw(16, generator(step))
        fitness = sphere(strategy.candidates(noise))
        parameter.grad = strategy.gradient(noise, fitness)
        adam.step()
        strategy.update(noise, fitness)
        torch.testing.assert_close(strategy.mean, parameter)


def test_centred_ranks_are_mean_ranks_between_minus_a_half_and_a_half() -> None:
    fitness = torch.tensor([5.0, 1.0, 5.0, -2.0, 5.0, 9.0, 1.0])
    expected = (scipy.stats.rankdata(fitness.numpy(), "average") - 1) / 6 - 0.5
    np.testing.assert_allclose(centred_ranks(fitness), expected, atol=1e-12)
    distinct = torch.tensor([3.0, -1.0, 7.0])
    np.testing.assert_allclose(centred_ranks(distinct), [0.0, -0.5, 0.5], atol=1e-12)


# --- SNES -------------------------------------------------------------------------------------


def utilities_by_hand(population: int) -> list[float]:
    """Of ranks 1 (best) to P, as Section 3.1 of Wierstra et al. 2014 writes them."""
    raw = [max(0.0, math.log(population / 2 + 1) - math.log(k)) for k in range(1, population + 1)]
    return [value / sum(raw) - 1 / population for value in raw]


@pytest.mark.parametrize("population", [2, 7, 40])
def test_utilities_are_those_of_the_paper(population: int) -> None:
    fitness = torch.randn(population, generator=generator())
    by_hand = utilities_by_hand(population)
    order = fitness.argsort(descending=True).tolist()
    for rank, candidate in enumerate(order):
        assert natural_utilities(fitness)[candidate] == pytest.approx(by_hand[rank])


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_softmax_utilities_are_those_of_the_authors_code(temperature: float) -> None:
    fitness = torch.tensor([4.0, 8.0, -2.0, 1.0, 5.0])
    places = [-0.5, -0.25, 0.0, 0.25, 0.5]  # best to worst
    raw = [math.exp(-20 / (1 + math.exp(-temperature * place))) for place in places]
    best, second, third, fourth, worst = (value / sum(raw) for value in raw)
    expected = [third, best, worst, fourth, second]
    np.testing.assert_allclose(softmax_utilities(fitness, temperature), expected, atol=1e-12)
    # Noise of one component is each candidate's own: the update is the utility-weighted noise.
    strategy = SNES(torch.zeros(5), sigma=0.5, temperature=temperature)
    strategy.update(torch.eye(5), fitness)
    np.testing.assert_allclose(strategy.mean, 0.5 * np.array(expected), rtol=1e-5)


def test_equals_share_their_utilities() -> None:
    utilities = natural_utilities(torch.tensor([4.0, 8.0, 4.0, 1.0]))
    first, second, third, fourth = utilities_by_hand(4)
    expected = [(second + third) / 2, first, (second + third) / 2, fourth]
    np.testing.assert_allclose(utilities, expected, atol=1e-12)


def test_snes_follows_its_algorithm_written_with_loops() -> None:
    population = 9
    strategy = SNES(START, sigma=0.4, learning_rate=0.7)
    mean, sigma = [float(x) for x in START], [0.4] * DIM
    eta_sigma = (3 + math.log(DIM)) / (5 * math.sqrt(DIM))
    for step in range(5):
        noise = strategy.draw(population, generator(step))
        fitness = sphere(strategy.candidates(noise))
        strategy.update(noise, fitness)

        samples = [
            [mean[i] + sigma[i] * float(noise[k, i]) for i in range(DIM)] for k in range(population)
        ]
        earned = [-sum((x - 3) ** 2 for x in sample) for sample in samples]
        best_first = sorted(range(population), key=lambda k: -earned[k])
        utility = dict(zip(best_first, utilities_by_hand(population), strict=True))
        for i in range(DIM):
            towards = sum(utility[k] * float(noise[k, i]) for k in range(population))
            wider = sum(utility[k] * (float(noise[k, i]) ** 2 - 1) for k in range(population))
            mean[i] += 0.7 * sigma[i] * towards
            sigma[i] *= math.exp(eta_sigma / 2 * wider)
        np.testing.assert_allclose(strategy.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(strategy.sigma, sigma, rtol=1e-4)


# --- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_find_the_top_of_a_hill(name: str) -> None:
    strategy = STRATEGIES[name]()
    before = float(sphere(strategy.mean[None]))
    climb(strategy, sphere, range(150))
    assert float(sphere(strategy.mean[None])) > 1e-3 * before


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_the_order_of_fitness_matters(name: str) -> None:
    plain, bent = STRATEGIES[name](), STRATEGIES[name]()
    climb(plain, sphere, range(5))
    climb(bent, lambda candidates: (sphere(candidates) / 10).exp(), range(5))
    assert plain.mean.equal(bent.mean)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_population_that_earns_the_same_moves_nothing(name: str) -> None:
    strategy = STRATEGIES[name]()
    sigma = strategy.sigma.clone()
    climb(strategy, lambda candidates: torch.full((32,), 500.0), range(10))
    torch.testing.assert_close(strategy.mean, START, atol=1e-6, rtol=0)
    torch.testing.assert_close(strategy.sigma, sigma, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_restored_strategy_goes_on_to_the_same_bits(name: str) -> None:
    whole, first, second = (STRATEGIES[name]() for _ in range(3))
    climb(whole, sphere, range(8))
    climb(first, sphere, range(3))
    second.restore(first.tensors())
    climb(first, sphere, range(3, 5))  # what it restored from may go on
    climb(second, sphere, range(3, 8))
    for key, value in whole.tensors().items():
        assert value.equal(second.tensors()[key]), key
