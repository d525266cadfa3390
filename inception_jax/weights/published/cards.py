"""The cards of published weights, by id: facts only. `weights.places` downloads."""

from __future__ import annotations

from inception_jax.models import zoo
from inception_jax.suggestions import hint
from inception_jax.weights.published import others, pytorch
from inception_jax.weights.published.card import WeightCard as WeightCard

CARDS: dict[str, WeightCard] = {card.id: card for card in pytorch.PUBLISHED + others.PUBLISHED}


def weight_card(id: str) -> WeightCard:
    """Returns the card of a published set of weights.

    Raises:
      ValueError: no set has this id; the message offers the nearest.
    """
    if id not in CARDS:
        raise ValueError(f"No published weights are called {id!r}.{hint(id, CARDS)} `inception-jax weights` lists all.")
    return CARDS[id]


def list_cards(model: str | None = None) -> list[WeightCard]:
    """Returns the cards of all published weights, or of one model; [] if it has none.

    Raises:
      ValueError: no model of the zoo has this name.
    """
    if model is None:
        return list(CARDS.values())
    name = zoo.model_card(model).name
    return [card for card in CARDS.values() if card.model == name]
