"""Timed runs to a fixed loss: tracks, entries, rules and the leaderboard."""
