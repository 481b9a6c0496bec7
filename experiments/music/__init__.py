r"""How well can a recurrent network foresee which notes sound next? Many answers at every step.

    python -m experiments.music                                   four-part chords, drawn by rules
    python -m experiments.music --data jsb_chorales --hidden-size 200 --chord-size 128 --dropout 0.7 \
        --transpose 0 --window 64 --learning-rate 3e-3            (all in one tonality already)
    python -m experiments.music --data FOLDER                     your own MIDI files, or FILE.mat
    python -m experiments.music continue --run DIR --to song.mid  a test piece, continued

The first command takes about three minutes on two CPU cores and needs no network. It ends with the negative
log-likelihood of a step beside two models without memory, a picture, and the continuation of a test piece
as sound and as MIDI.
"""
