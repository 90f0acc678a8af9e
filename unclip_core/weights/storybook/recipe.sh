#!/bin/bash
# What makes the files of storybook-3, step by step from those of storybook-2 (commit 11dc01a of this repository).
#
#   FROM=folder of storybook-2's files  RUNS=where to work  NICE="chrt -i 0"  ./recipe.sh [STEP ...]
#
# Run it again to go on where it stopped. $RUNS/times.tsv gets a line for every start of a step: its seconds by the
# clock, its processor seconds, the processor. Without STEP: all of them, in order.
set -euo pipefail

FROM=${FROM:?the folder of storybook-2's files}
RUNS=${RUNS:-runs/storybook-3}
UNCLIP=${UNCLIP:-unclip}
mkdir -p "$RUNS"

train() { # NAME STAGE ARGUMENTS: a training run in $RUNS/NAME, unless it is done
    local name=$1 stage=$2
    shift 2
    [ -e "$RUNS/$name/${stage//-/_}.safetensors" ] && return
    timed "$name" "train $stage" --preset storybook-3 --run "$RUNS/$name" --cache "$RUNS/data" --pictures 100000 \
        --threads "${THREADS:-1}" "$@"
}

timed() { # NAME "COMMAND" ARGUMENTS
    local name=$1 command=$2 TIMEFORMAT="%R %U"
    shift 2
    { time ${NICE:-} $UNCLIP $command "$@" 2>"$RUNS/$name.log" >&2; } 2>"$RUNS/$name.time" || { cat "$RUNS/$name.log"; exit 1; }
    printf '%s\t%s\t%s\n' "$name" "$(cat "$RUNS/$name.time")" "$(lscpu | sed -n 's/^Model name: *//p')" >>"$RUNS/times.tsv"
}

# Batches of 128, in groups that are easily mixed up: two things with colours, objects and relation exchanged or one of
# them another, one thing and its look-alikes.
CLIP="--batch 128 --set warmup=100 --set shift=4 --set swaps=True"

clip_a() { # the trunk as it was: a head that reads its map, and captions that say which is which
    train clip-a clip --init "$FROM/clip.safetensors" --steps 1000 --lr 1.5e-3 --set decay=False \
        --set trunk_stages=4 --set siblings=4 --set cousins=0.75 $CLIP
}

clip_b() { # other objects in the same colours and places beside the exchanges
    train clip-b clip --init "$RUNS/clip-a/clip.safetensors" --steps 600 --lr 1.5e-3 --set decay=False \
        --set trunk_stages=4 --set siblings=8 --set cousins=0.9 $CLIP
}

clip_c() { # the trunk's later half learns as well
    train clip-c clip --init "$RUNS/clip-b/clip.safetensors" --steps 900 --lr 1e-3 --set trunk_stages=2 \
        --set siblings=8 --set cousins=0.9 $CLIP
}

prior() {
    train prior prior --clip "$RUNS/clip-c/clip.safetensors" --steps 2000 --batch 128 --lr 8e-4 --set draws=4 --set swaps=True
}

decoder_a() { # half of the rows without an embedding, so that it learns to read captions
    train decoder-a decoder --init "$FROM/decoder.safetensors" --clip "$RUNS/clip-c/clip.safetensors" \
        --steps 4000 --batch 32 --lr 6e-4 --set swaps=True --set embed_drop=0.5 --set text_drop=0.3
}

decoder_b() { # the paper's shares
    train decoder-b decoder --init "$RUNS/decoder-a/decoder.safetensors" --clip "$RUNS/clip-c/clip.safetensors" \
        --steps 4000 --batch 32 --lr 6e-4 --set swaps=True
}

for step in "${@:-clip_a clip_b clip_c prior decoder_a decoder_b}"; do
    for each in $step; do $each; done
done
