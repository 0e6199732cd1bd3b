"""Drafts in the form that decoding runs: few products per step, each row of a batch with a draft of its own."""
