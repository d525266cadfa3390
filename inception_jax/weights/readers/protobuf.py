"""Protocol buffers of other projects: message classes from the fields that are read, by their public numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Fields = Mapping[str, Sequence[tuple]]
"""By message: (name, number, type), and `list` as a fourth item of a repeated field. A list of numbers is packed."""


def message_classes(package: str, fields: Fields) -> dict[str, Any]:
    """Returns the message classes by name.

    They are in a pool of their own: other code may declare the same package. Fields that are not declared are skipped
    while a message is parsed.

    Args:
      package: the name of the package, which messages of one call share.
      fields: what to declare; a type is a message of the same call or a scalar of protocol buffers, such as "float".
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for message, its_fields in fields.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, *repeated in its_fields:
            field = declared.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in fields:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
                if repeated and kind not in ("string", "bytes"):
                    field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in fields}
