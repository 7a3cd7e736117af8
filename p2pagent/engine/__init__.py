"""Engines: what turns a prompt into an answer on this device."""
