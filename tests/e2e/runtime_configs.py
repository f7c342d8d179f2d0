"""Schemas of the configuration files of Triton and TensorFlow Serving, as far as docs use them.

Names, numbers and types of the fields are those of `model_config.proto` of Triton (tritonclient
2.73.0) and `model_server_config.proto` of TensorFlow Serving (tensorflow-serving-api 2.21.0). An
unknown field is an error of the parser.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

Field = descriptor_pb2.FieldDescriptorProto
STRING, INT32, INT64, UINT64 = (
    Field.TYPE_STRING,
    Field.TYPE_INT32,
    Field.TYPE_INT64,
    Field.TYPE_UINT64,
)
# fields of each message: name, number, type or name of a message or enumeration, is it repeated
TRITON = {
    "ModelInput": [
        ("name", 1, STRING, False),
        ("data_type", 2, "DataType", False),
        ("dims", 4, INT64, True),
    ],
    "ModelOutput": [
        ("name", 1, STRING, False),
        ("data_type", 2, "DataType", False),
        ("dims", 3, INT64, True),
        ("label_filename", 4, STRING, False),
    ],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, INT32, True),
        ("max_queue_delay_microseconds", 2, UINT64, False),
    ],
    "ModelConfig": [
        ("name", 1, STRING, False),
        ("platform", 2, STRING, False),
        ("max_batch_size", 4, INT32, False),
        ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True),
        ("dynamic_batching", 11, "ModelDynamicBatching", False),
        ("backend", 17, STRING, False),
    ],
}
TRITON_TYPES = {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11}
TENSORFLOW_SERVING = {
    "ModelConfig": [
        ("name", 1, STRING, False),
        ("base_path", 2, STRING, False),
        ("model_platform", 4, STRING, False),
    ],
    "ModelConfigList": [("config", 1, "ModelConfig", True)],
    "ModelServerConfig": [("model_config_list", 1, "ModelConfigList", False)],
}


def parse_triton(text: str) -> Any:
    """Return a `config.pbtxt` as a message; raise text_format.ParseError if it is not valid."""
    return _parse(text, "triton", TRITON, "ModelConfig", {"DataType": TRITON_TYPES})


def parse_tensorflow_serving(text: str) -> Any:
    """Return a `models.config` as a message; raise text_format.ParseError if it is not valid."""
    return _parse(text, "serving", TENSORFLOW_SERVING, "ModelServerConfig", {})


def _parse(
    text: str,
    package: str,
    messages: dict[str, list[tuple[str, int, Any, bool]]],
    root: str,
    enums: dict[str, dict[str, int]],
) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            label = Field.LABEL_REPEATED if is_repeated else Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type = Field.TYPE_ENUM if kind in enums else Field.TYPE_MESSAGE
                added.type_name = f".{package}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    cls = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{root}"))
    return text_format.Parse(text, cls())
