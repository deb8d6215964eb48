"""Conversations to token ids, piece by piece, and generated calls of tools back to objects.

`encode_chat` and `Conversation` write the ids that a model was trained on; `recognise_template`
tells which template that is; `parse_tool_calls` reads what an answer asks to be called; `SavedChat`
keeps a conversation in a file. Which conversations each template accepts is in docs/chat.md.
"""

from pymixtral.chat.conversation import Conversation
from pymixtral.chat.messages import Message
from pymixtral.chat.recognise import Recognition, recognise_template
from pymixtral.chat.saved import SavedChat, read_saved_chat
from pymixtral.chat.templates import TEMPLATES, encode_chat, make_template
from pymixtral.chat.tools import ToolCall, parse_tool_calls

__all__ = [
    "TEMPLATES",
    "Conversation",
    "Message",
    "Recognition",
    "SavedChat",
    "ToolCall",
    "encode_chat",
    "make_template",
    "parse_tool_calls",
    "read_saved_chat",
    "recognise_template",
]
