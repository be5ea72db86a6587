"""The OpenAPI page's words, taken from the very types that the doors decode and encode."""

from typing import Any, Final

import msgspec

_REF: Final = "#/components/schemas/{name}"
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Error",
    "description": "OpenAI's form of an error; every answer from 400 up has it.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


class Schemas:
    """Collects the shapes that doors mention, and gives each door its part of the OpenAPI document."""

    def __init__(self) -> None:
        self._components: dict[str, Any] = {"Error": _ERROR}

    def of(self, shape: Any) -> dict[str, Any]:
        """The JSON schema of a type; its parts become components."""
        (schema,), components = msgspec.json.schema_components([shape], ref_template=_REF)
        self._components.update(components)
        return schema

    def answers(
        self, shape: Any, description: str, *, status: int = 200, example: object = None
    ) -> dict[int | str, Any]:
        """``responses`` of a door that answers JSON."""
        return self.answers_as("application/json", self.of(shape), description, status=status, example=example)

    def answers_as(
        self, media_type: str, schema: dict[str, Any], description: str, *, status: int = 200, example: object = None
    ) -> dict[int | str, Any]:
        content: dict[str, Any] = {"schema": schema} if example is None else {"schema": schema, "example": example}
        refused = {
            "description": "Refused",
            "content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}},
        }
        return {status: {"description": description, "content": {media_type: content}}, "4XX": refused, "5XX": refused}

    def body(self, schema: dict[str, Any], *, example: object, media_type: str = "application/json") -> dict[str, Any]:
        """``openapi_extra`` of a door that reads its body itself."""
        return {"requestBody": {"required": True, "content": {media_type: {"schema": schema, "example": example}}}}

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with every component that it names."""
        document.setdefault("components", {}).setdefault("schemas", {}).update(self._components)
        return document
