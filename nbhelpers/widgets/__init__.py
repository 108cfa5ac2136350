"""Floor 5: thin views over sessions; they hold no state of their own."""
