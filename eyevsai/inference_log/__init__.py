"""The inference log: answers of a server, labels that arrive later, decisions on rollouts."""
