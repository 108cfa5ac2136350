"""Floor 5: thin views over sessions; they hold no state of their own."""

from nbhelpers.core.lazy import needs

needs("widgets", "ipywidgets", "ipycanvas")
