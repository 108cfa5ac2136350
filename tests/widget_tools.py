"""What the tests of all widgets use: their buttons, a page that connects, the messages that are sent."""


def buttons(widget):
    """All ordinary buttons by description, and icon buttons by tooltip."""
    found, todo = {}, [widget]
    while todo:
        each = todo.pop()
        todo += getattr(each, "children", ())
        if hasattr(each, "click"):
            found.setdefault(each.description or each.tooltip, each)
    return found


def page_event(screen, event, **what):
    """An event of the page on the front layer of a `LayeredCanvas`."""
    screen.widget[-1]._handle_frontend_event(None, {"event": event, **what}, [])


def connect(screen):
    """A page connects, or reloads."""
    page_event(screen, "client_ready")


def key(widget, name, shift=False, control=False):
    """A key on the canvas of a widget."""
    page_event(widget.stage.screen, "key_down", key=name, shift_key=shift, ctrl_key=control, meta_key=False)


def record_messages(screen, monkeypatch):
    """The drawing messages from now on: the bytes of each."""
    messages = []

    def send(content, buffers=None):
        messages.append(b"".join(bytes(buffer) for buffer in buffers or ()))

    monkeypatch.setattr(screen.manager, "send", send)
    return messages


def is_following(widget, change):
    """Whether a widget is refreshed when ``change()`` changes its session."""
    refreshed = []
    widget.refresh = lambda: refreshed.append(1)
    change()
    return bool(refreshed)
