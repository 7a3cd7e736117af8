"""The loopback HTTP API: OpenAI's protocol for any client, and what the command line needs besides."""
