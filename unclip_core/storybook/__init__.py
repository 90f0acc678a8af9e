"""The storybook: captioned pictures drawn from vector scenes, to train a small unCLIP on."""
