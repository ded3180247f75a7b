"""Settings: defaults < file < OTE_* < flags; a key that nobody knows stops the start with a suggestion.

Not here: any program's settings (their own `settings.py`) and its command line (`apps`). The one idea: a setting is one
documented field of a frozen struct, and files, environment, flags and documentation are made from it.
"""
