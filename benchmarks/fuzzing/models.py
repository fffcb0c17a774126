"""Edits of an ONNX model through its protobuf fields, so that most of them still parse."""

from __future__ import annotations

import random
from typing import Any

from fuzzing.values import NUMBERS, PATHS, TEXTS

_INTEGERS = tuple(int(n) for n in NUMBERS if isinstance(n, int) and -(2**63) <= n < 2**63)
_KEEP = 0.15


def edit_model(model: Any, rng: random.Random) -> None:
    """One edit of a random field of a random message in the model, in place."""
    messages = list(_messages(model))
    for _ in range(20):
        message = rng.choice(messages)
        fields = [f for f in message.DESCRIPTOR.fields if rng.random() < 0.3 or _is_set(message, f)]
        if fields and _edited(message, rng.choice(fields), messages, rng):
            return


def _messages(message: Any, depth: int = 0) -> Any:
    yield message
    if depth > 30:
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _repeats(field) else [value]:
                yield from _messages(inner, depth + 1)


def _repeats(field: Any) -> bool:
    repeated = getattr(field, "is_repeated", None)
    return bool(repeated if repeated is not None else field.label == field.LABEL_REPEATED)


def _is_set(message: Any, field: Any) -> bool:
    return any(f.name == field.name for f, _ in message.ListFields())


def _edited(message: Any, field: Any, messages: list[Any], rng: random.Random) -> bool:
    try:
        if rng.random() < _KEEP:
            message.ClearField(field.name)
        elif _repeats(field):
            _edit_list(getattr(message, field.name), field, rng)
        elif field.type == field.TYPE_MESSAGE:
            same = [m for m in messages if m.DESCRIPTOR is field.message_type]
            if same:
                getattr(message, field.name).CopyFrom(_copied(rng.choice(same)))
        else:
            setattr(message, field.name, _value(field, getattr(message, field.name), messages, rng))
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _edit_list(values: Any, field: Any, rng: random.Random) -> None:
    edit = rng.randrange(5)
    if field.type == field.TYPE_MESSAGE:
        if not values:
            values.add()
        elif edit == 0:
            del values[rng.randrange(len(values))]
        elif edit == 1:
            values.add().CopyFrom(_copied(rng.choice(values)))
        elif edit == 2 and len(values) > 1:
            order = [_copied(v) for v in values]
            rng.shuffle(order)
            del values[:]
            values.extend(order)
        elif edit == 3:
            for _ in range(rng.choice([2, 20])):
                values.add().CopyFrom(_copied(values[0]))
        else:
            del values[:]
        return
    if not values or edit == 0:
        values.append(_value(field, values[0] if values else None, [], rng))
    elif edit == 1:
        del values[rng.randrange(len(values))]
    elif edit == 2:
        values.extend(list(values) * rng.choice([1, 100]))
    else:
        values[rng.randrange(len(values))] = _value(field, values[0], [], rng)


def _copied(message: Any) -> Any:
    """A message of its own: one that is copied into what contains it would be cleared before it is read."""
    return type(message).FromString(message.SerializeToString())


def _value(field: Any, now: Any, messages: list[Any], rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        names = [v for m in messages for f, v in m.ListFields() if f.type == field.TYPE_STRING and isinstance(v, str)]
        return rng.choice([*names, *PATHS, *TEXTS]).encode("utf-8", "ignore").decode()
    if field.type == field.TYPE_BYTES:
        held = now if isinstance(now, bytes) else b""
        return rng.choice([b"", held[:-1], held + b"\0", held * 50, b"\xff" * len(held), b"\0\0\xc0\x7f" * (len(held) // 4)])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-40])
    if field.type == field.TYPE_ENUM:
        return rng.choice([*(v.number for v in field.enum_type.values), 99])
    if field.type == field.TYPE_BOOL:
        return not now
    return rng.choice([*_INTEGERS, *range(-3, 30)])
