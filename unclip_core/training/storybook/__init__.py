"""The storybook: captioned pictures drawn from vector scenes, endless and free of licences, to train a small unCLIP on."""
