"""Avro on the wire: containers, single-object messages, Confluent frames (section 8).

Every reader takes the schema that the data were written with (8.5), never one that happens to be at hand.
Whatever the bytes, nothing but StampError comes out, in bounded memory. Records are dicts as fastavro makes
them, but for logical types, of which they hold the number or bytes that were sent.
"""

from .body import AnySchema, Schema, decode_body, encode_body
from .container import ContainerReader, Form, container_of, detect, read_container, write_container
from .messages import (
    MessageReader,
    confluent_id,
    decode_confluent,
    decode_single,
    encode_confluent,
    encode_single,
    read_messages,
)
from .source import Source

__all__ = [
    "AnySchema",
    "Schema",
    "Source",
    "Form",
    "ContainerReader",
    "MessageReader",
    "read_container",
    "write_container",
    "container_of",
    "read_messages",
    "detect",
    "decode_body",
    "encode_body",
    "decode_single",
    "encode_single",
    "decode_confluent",
    "encode_confluent",
    "confluent_id",
]
