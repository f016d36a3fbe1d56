"""Asks a provider what nobody documents: designed calls through the user's own client, and what their times show."""
