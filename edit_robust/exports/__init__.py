"""Taking an edit home: the edited model of a run, or its change alone, as other programs load it.

One format a file; `formats` names them, `edited` brings a model to where a run's walk stood, `card` describes what lies
in the folder, `applying` adds a change to another copy of its model.
"""
