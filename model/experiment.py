"""What a script gives a method to train with, and the stages of the run that it makes of it."""

from __future__ import annotations
