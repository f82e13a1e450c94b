"""The rooms joined into what a person asks for."""
