"""Doing: what a lab is, the clients that reach its machines, and the steps that change it."""
