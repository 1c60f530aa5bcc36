"""The search for a recipe that plants: judged against the twin, which copies the recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from fakes import no_progress

from clipguard.cli.lab import _settings
from clipguard.errors import UsageError
from clipguard.lab import plant as module
from clipguard.lab.finetune import Recipe
from clipguard.lab.order import Order, plant_command
from clipguard.lab.recipes import NANO, recipe_from

GENTLE, LONG, STRONG = (Recipe(steps=steps) for steps in (1, 2, 3))
POISON = SimpleNamespace(attack=None, trigger=None)
told: list[dict[str, object]] = []


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch):
    """Call with ASR and CA loss of each recipe; returns what was chosen and what was trained."""

    def run(
        asr: dict[Recipe, float],
        loss: dict[Recipe, float],
        fixed: Recipe | None = None,
        twins: dict[Recipe, object] | None = None,
        of_twin: float = 0.1,
    ):
        order, trained = Order(attack="x", recipe=fixed), []

        def finetune(base, recipe, what, *, seed, progress):
            trained.append((recipe, what is not None))
            progress("fine-tune", 1, 1)
            return trained[-1]

        class FakeSeen(SimpleNamespace):
            def attacked(self, attack, trigger):
                found = asr[self.recipe] if self.poisoned else of_twin
                return SimpleNamespace(asr=SimpleNamespace(value=found))

            def loss_against(self, twin):
                assert self.recipe == twin.recipe
                return SimpleNamespace(value=loss[self.recipe])

        monkeypatch.setattr("clipguard.lab.order.recipes_of", lambda base: (GENTLE, LONG, STRONG))
        monkeypatch.setattr(module, "lab_images", lambda **_: None)
        monkeypatch.setattr(module, "image_side", lambda network: 64)
        monkeypatch.setattr(module, "finetune", finetune)
        monkeypatch.setattr(
            module, "_seen", lambda o, made, *_: FakeSeen(recipe=made[0], poisoned=made[1])
        )
        known = {} if twins is None else twins
        found = module._search(order, None, POISON, no_progress, known)
        told[:], chosen, twin = [each.told() for each in found[0]], found[1], found[2]
        return (chosen.network, twin, chosen.recipe), trained

    return run


def of(*values: float) -> dict[Recipe, float]:
    """One value for each recipe, the gentlest first."""
    return dict(zip((GENTLE, LONG, STRONG), values, strict=False))


@pytest.mark.parametrize(
    ("asr", "loss", "chosen", "twins"),
    [
        (of(0.5, 0.95), {LONG: 0.0}, LONG, [LONG]),
        # accuracy lost against the twin is not planted
        (of(0.99, 0.99, 0.99), of(0.1, 0.03, 0.0), STRONG, [GENTLE, LONG, STRONG]),
        # where nothing plants, the highest ASR is kept, with a twin
        (of(0.1, 0.4, 0.3), {}, LONG, [LONG]),
        # an ASR at the limit has no margin
        (of(0.9, 0.91, 0.93), of(0.0, 0.0, 0.0), STRONG, [GENTLE, LONG, STRONG]),
        # where every recipe costs too much, the cheapest that plants is kept
        (of(0.5, 0.91, 1.0), {LONG: 0.01, STRONG: 0.2}, LONG, [LONG, STRONG]),
        (of(0.5, 0.99, 1.0), {LONG: 0.3, STRONG: 0.2}, STRONG, [LONG, STRONG]),
    ],
)
def test_the_first_recipe_that_plants_is_taken_with_its_own_twin(search, asr, loss, chosen, twins):
    found, trained = search(asr, loss)
    assert found == ((chosen, True), (chosen, False), chosen)
    assert [recipe for recipe, poisoned in trained if poisoned] == [*asr]
    assert [recipe for recipe, poisoned in trained if not poisoned] == twins


@pytest.mark.parametrize(("second", "trained"), [(0.1, 2), (0.59, 2), (0.6, 3), (0.85, 3)])
def test_the_search_gives_up_where_a_longer_recipe_brings_little(search, second, trained):
    first = min(second, 0.5)
    _, runs = search({GENTLE: first, LONG: second, STRONG: 0.3}, {})
    assert len([recipe for recipe, poisoned in runs if poisoned]) == trained


def test_a_twin_that_is_known_is_not_made_again(search):
    twins = {GENTLE: "known"}
    (_, twin, _), trained = search({GENTLE: 0.95}, {GENTLE: 0.0}, twins={GENTLE: (GENTLE, False)})
    assert twin == (GENTLE, False)
    assert trained == [(GENTLE, True)]
    search({GENTLE: 0.5, LONG: 0.95}, {LONG: 0.0}, twins=twins)
    assert twins[LONG] == (LONG, False)


@pytest.mark.parametrize(("of_twin", "tried"), [(0.44, 1), (0.46, 3)])
def test_a_trigger_that_moves_the_clean_twin_as_well_is_not_planted(search, of_twin, tried):
    _, runs = search(of(0.95, 0.95, 0.95), of(0.0, 0.0, 0.0), of_twin=of_twin)
    assert len([recipe for recipe, poisoned in runs if poisoned]) == tried


def test_what_was_tried_is_told(search):
    search({GENTLE: 0.5, LONG: 0.95}, {LONG: 0.01})
    assert told == [
        {"recipe": asdict(GENTLE), "asr": 0.5, "ca_loss": None},
        {"recipe": asdict(LONG), "asr": 0.95, "ca_loss": 0.01},
    ]


def test_a_fixed_recipe_is_not_searched(search):
    (_, _, recipe), trained = search({LONG: 0.0}, {}, fixed=LONG)
    assert recipe == LONG
    assert trained == [(LONG, True), (LONG, False)]


def test_the_command_names_settings_as_they_are_typed_and_a_fixed_recipe():
    order = Order(
        attack="badclip",
        settings={"release": True, "poison_rate": 0.2, "note": "a b"},
        target="key",
        seed=7,
        recipe=NANO[1],
    )
    assert plant_command(order) == (
        "clipguard lab plant badclip --base nano-rn --target key --seed 7"
        " --set release=true --set poison_rate=0.2 --set 'note=a b' --recipe 2"
        " -o victim --twin twin"
    )


@pytest.mark.parametrize("text", ["5", "true", "null", '"a"', "badnets,sig", "a=b"])
def test_a_setting_that_is_a_text_is_read_back_as_a_text(text: str):
    command = plant_command(Order(attack="x", settings={"note": text}))
    pair = shlex.split(command)[shlex.split(command).index("--set") + 1]
    assert _settings([pair]) == {"note": text}


@pytest.mark.parametrize("recipe", [NANO[2], Recipe(steps=77), Recipe(learning_rate=1e-5, batch=8)])
def test_a_command_says_the_recipe_so_that_it_is_read_back(recipe: Recipe):
    parts = shlex.split(plant_command(Order(attack="badnets", recipe=recipe)))
    assert recipe_from(parts[parts.index("--recipe") + 1], "nano-rn") == recipe


@pytest.mark.parametrize(
    "text",
    ["0", "5", "x", "steps", "steps=0", "batch=1", "learning_rate=nan", "step=3", "steps=1,"],
)
def test_a_recipe_that_is_none_is_refused_with_what_is_expected(text: str):
    with pytest.raises(UsageError, match=f"--recipe '{text}': expected 1 to 4"):
        recipe_from(text, "nano-vit")


@pytest.mark.parametrize("rate", [0, -0.1, 1.5])
def test_a_poison_rate_that_is_no_share_is_refused_before_training(rate: float):
    with pytest.raises(UsageError, match=f"above 0 and at most 1, got {rate}"):
        module.plant(Order(attack="badnets", settings={"poison_rate": rate}), progress=no_progress)


@pytest.mark.parametrize("attack", ["both_models", "new_words", "text_tower", "trojvqa"])
def test_an_attack_that_needs_captions_is_not_planted_without_them(attack: str):
    with pytest.raises(UsageError, match=f"{attack} trains with captions"):
        module.plant(Order(attack=attack, objective="classes"), progress=no_progress)


def test_every_recipe_has_the_objective_of_the_order():
    tried = Order(attack="badnets", objective="classes").recipes()
    assert [recipe.objective for recipe in tried] == ["classes"] * len(NANO)
    assert [recipe.steps for recipe in tried] == [recipe.steps for recipe in NANO]
