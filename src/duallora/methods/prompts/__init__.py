"""Prompt methods: a frozen pass asks, small learned tokens or prefixes answer, a second pass reads the result."""
