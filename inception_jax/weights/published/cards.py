"""The published weights by id. Nothing is fetched here."""

from __future__ import annotations

import difflib

from inception_jax.models import zoo
from inception_jax.weights.published import others, pytorch
from inception_jax.weights.published.card import WeightCard as WeightCard

CARDS: dict[str, WeightCard] = {card.id: card for card in pytorch.PUBLISHED + others.PUBLISHED}


def weight_card(id: str) -> WeightCard:
    """Returns the card of a published set of weights.

    Raises:
      ValueError: no set has this id; the message offers the nearest.
    """
    if id not in CARDS:
        nearest = [known for known in CARDS if id in known] or difflib.get_close_matches(id, CARDS, n=3, cutoff=0.4)
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise ValueError(f"No published weights are called {id!r}.{hint} All: inception-jax weights.")
    return CARDS[id]


def list_cards(model: str | None = None) -> list[WeightCard]:
    """Returns the cards of all published weights, or of those of one model, which may have none.

    Raises:
      ValueError: no model of the zoo has this name.
    """
    if model is None:
        return list(CARDS.values())
    name = zoo.model_card(model).name
    return [card for card in CARDS.values() if card.model == name]
