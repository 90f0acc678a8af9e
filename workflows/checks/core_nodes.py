"""The names of ComfyUI's own nodes, by what they are for. Written by tests/tools/core_node_names.py."""

VERSIONS = ("0.3.64", "0.8.0")  # whose nodes these are
PAID = "api node"  # the theme of nodes that call a service

THEMES = {
    "3d": ("Load3D, Load3DAnimation, Preview3D, Preview3DAnimation, SaveGLB, VoxelToMesh, VoxelToMeshBasic "),
    "api node": (
        "ByteDanceFirstLastFrameNode, ByteDanceImageEditNode, ByteDanceImageNode, "
        "ByteDanceImageReferenceNode, ByteDanceImageToVideoNode, ByteDanceSeedreamNode, "
        "ByteDanceTextToVideoNode, FluxProCannyNode, FluxProDepthNode, FluxProExpandNode, FluxProFillNode, "
        "FluxProUltraImageNode, GeminiImage2Node, GeminiImageNode, GeminiInputFiles, GeminiNode, IdeogramV1, "
        "IdeogramV2, IdeogramV3, KlingCameraControlI2VNode, KlingCameraControlT2VNode, KlingCameraControls, "
        "KlingDualCharacterVideoEffectNode, KlingImage2VideoNode, KlingImageGenerationNode, "
        "KlingImageToVideoWithAudio, KlingLipSyncAudioToVideoNode, KlingLipSyncTextToVideoNode, "
        "KlingMotionControl, KlingOmniProEditVideoNode, KlingOmniProFirstLastFrameNode, "
        "KlingOmniProImageNode, KlingOmniProImageToVideoNode, KlingOmniProTextToVideoNode, "
        "KlingOmniProVideoToVideoNode, KlingSingleImageVideoEffectNode, KlingStartEndFrameNode, "
        "KlingTextToVideoNode, KlingTextToVideoWithAudio, KlingVideoExtendNode, KlingVirtualTryOnNode, "
        "LtxvApiImageToVideo, LtxvApiTextToVideo, LumaConceptsNode, LumaImageModifyNode, LumaImageNode, "
        "LumaImageToVideoNode, LumaReferenceNode, LumaVideoNode, MinimaxHailuoVideoNode, "
        "MinimaxImageToVideoNode, MinimaxTextToVideoNode, MoonvalleyImg2VideoNode, MoonvalleyTxt2VideoNode, "
        "MoonvalleyVideo2VideoNode, OpenAIChatConfig, OpenAIChatNode, OpenAIDalle2, OpenAIDalle3, "
        "OpenAIGPTImage1, OpenAIInputFiles, OpenAIVideoSora2, PikaImageToVideoNode2_2, PikaScenesV2_2, "
        "PikaStartEndFrameNode2_2, PikaTextToVideoNode2_2, Pikadditions, Pikaffects, Pikaswaps, "
        "PixverseImageToVideoNode, PixverseTemplateNode, PixverseTextToVideoNode, "
        "PixverseTransitionVideoNode, RecraftColorRGB, RecraftControls, RecraftCreativeUpscaleNode, "
        "RecraftCrispUpscaleNode, RecraftImageInpaintingNode, RecraftImageToImageNode, "
        "RecraftRemoveBackgroundNode, RecraftReplaceBackgroundNode, RecraftStyleV3DigitalIllustration, "
        "RecraftStyleV3InfiniteStyleLibrary, RecraftStyleV3LogoRaster, RecraftStyleV3RealisticImage, "
        "RecraftTextToImageNode, RecraftTextToVectorNode, RecraftVectorizeImageNode, Rodin3D_Detail, "
        "Rodin3D_Gen2, Rodin3D_Regular, Rodin3D_Sketch, Rodin3D_Smooth, RunwayFirstLastFrameNode, "
        "RunwayImageToVideoNodeGen3a, RunwayImageToVideoNodeGen4, RunwayTextToImageNode, "
        "StabilityAudioInpaint, StabilityAudioToAudio, StabilityStableImageSD_3_5Node, "
        "StabilityStableImageUltraNode, StabilityTextToAudio, StabilityUpscaleConservativeNode, "
        "StabilityUpscaleCreativeNode, StabilityUpscaleFastNode, TopazImageEnhance, TopazVideoEnhance, "
        "TripoConversionNode, TripoImageToModelNode, TripoMultiviewToModelNode, TripoRefineNode, "
        "TripoRetargetNode, TripoRigNode, TripoTextToModelNode, TripoTextureNode, Veo3FirstLastFrameNode, "
        "Veo3VideoGenerationNode, VeoVideoGenerationNode, ViduImageToVideoNode, ViduReferenceVideoNode, "
        "ViduStartEndToVideoNode, ViduTextToVideoNode, WanImageToImageApi, WanImageToVideoApi, "
        "WanReferenceVideoApi, WanTextToImageApi, WanTextToVideoApi "
    ),
    "audio": (
        "AudioAdjustVolume, AudioConcat, AudioMerge, EmptyAudio, LTXVAudioVAEDecode, LTXVAudioVAEEncode, "
        "LTXVAudioVAELoader, LoadAudio, PreviewAudio, RecordAudio, SaveAudio, SaveAudioMP3, SaveAudioOpus, "
        "SplitAudioChannels, TrimAudioDuration "
    ),
    "camera": ("WanCameraEmbedding "),
    "conditioning": (
        "AudioEncoderEncode, CLIPSetLastLayer, CLIPTextEncode, CLIPTextEncodeFlux, CLIPTextEncodeHiDream, "
        "CLIPTextEncodeHunyuanDiT, CLIPTextEncodeKandinsky5, CLIPTextEncodeLumina2, "
        "CLIPTextEncodePixArtAlpha, CLIPTextEncodeSD3, CLIPTextEncodeSDXL, CLIPTextEncodeSDXLRefiner, "
        "CLIPVisionEncode, ConditioningAverage, ConditioningCombine, ConditioningConcat, ConditioningSetArea, "
        "ConditioningSetAreaPercentage, ConditioningSetAreaPercentageVideo, ConditioningSetAreaStrength, "
        "ConditioningSetMask, ConditioningSetTimestepRange, ConditioningStableAudio, ConditioningZeroOut, "
        "ControlNetApply, ControlNetApplyAdvanced, ControlNetApplySD3, ControlNetInpaintingAliMamaApply, "
        "CosmosImageToVideoLatent, CosmosPredict2ImageToVideoLatent, FluxDisableGuidance, FluxGuidance, "
        "FluxKontextImageScale, FluxKontextMultiReferenceLatentMethod, GLIGENTextBoxApply, GenerateTracks, "
        "Hunyuan3Dv2Conditioning, Hunyuan3Dv2ConditioningMultiView, HunyuanImageToVideo, "
        "HunyuanVideo15ImageToVideo, InpaintModelConditioning, InstructPixToPixConditioning, "
        "Kandinsky5ImageToVideo, LTXVAddGuide, LTXVConditioning, LTXVCropGuides, LTXVImgToVideo, "
        "LTXVImgToVideoInplace, LotusConditioning, NormalizeVideoLatentStart, ReferenceLatent, "
        "SD_4XUpscale_Conditioning, SV3D_Conditioning, SVD_img2vid_Conditioning, SetUnionControlNetType, "
        "StableCascade_StageB_Conditioning, StableZero123_Conditioning, StableZero123_Conditioning_Batched, "
        "StyleModelApply, TextEncodeAceStepAudio, TextEncodeHunyuanVideo_ImageToVideo, "
        "TextEncodeQwenImageEdit, TextEncodeQwenImageEditPlus, Wan22FunControlToVideo, "
        "Wan22ImageToVideoLatent, WanAnimateToVideo, WanCameraImageToVideo, WanFirstLastFrameToVideo, "
        "WanFunControlToVideo, WanFunInpaintToVideo, WanHuMoImageToVideo, WanImageToVideo, "
        "WanMoveConcatTrack, WanMoveTrackToVideo, WanMoveTracksFromCoords, WanMoveVisualizeTracks, "
        "WanPhantomSubjectToVideo, WanSoundImageToVideo, WanSoundImageToVideoExtend, WanTrackToVideo, "
        "WanVaceToVideo, unCLIPConditioning "
    ),
    "context": ("ContextWindowsManual "),
    "dataset": (
        "LoadImageDataSetFromFolder, LoadImageTextDataSetFromFolder, LoadTrainingDataset, "
        "MakeTrainingDataset, ResolutionBucket, SaveImageDataSetToFolder, SaveImageTextDataSetToFolder, "
        "SaveTrainingDataset, ShuffleImageTextDataset "
    ),
    "debug": ("EasyCache, LazyCache, ModelComputeDtype "),
    "guidance": ("CFGNorm, CFGZeroStar, SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple, SkipLayerGuidanceSD3, TCFG "),
    "hooks": (
        "CombineHooks2, CombineHooks4, CombineHooks8, ConditioningSetDefaultCombine, "
        "ConditioningSetProperties, ConditioningSetPropertiesAndCombine, ConditioningTimestepsRange, "
        "CreateHookKeyframe, CreateHookKeyframesFromFloats, CreateHookKeyframesInterpolated, CreateHookLora, "
        "CreateHookLoraModelOnly, CreateHookModelAsLora, CreateHookModelAsLoraModelOnly, "
        "PairConditioningCombine, PairConditioningSetDefaultCombine, PairConditioningSetProperties, "
        "PairConditioningSetPropertiesAndCombine, SetClipHooks, SetHookKeyframes "
    ),
    "image": (
        "BatchImagesNode, Canny, CreateVideo, EmptyImage, GetImageSize, GetVideoComponents, ImageAddNoise, "
        "ImageBatch, ImageBlend, ImageBlur, ImageCompositeMasked, ImageCrop, ImageFlip, ImageFromBatch, "
        "ImageInvert, ImagePadForOutpaint, ImageQuantize, ImageRGBToYUV, ImageRotate, ImageScale, "
        "ImageScaleBy, ImageScaleToMaxDimension, ImageScaleToTotalPixels, ImageSharpen, ImageStitch, "
        "ImageUpscaleWithModel, ImageYUVToRGB, LTXVPreprocess, LoadImage, LoadImageOutput, LoadVideo, "
        "Morphology, PreviewImage, RebatchImages, RepeatImageBatch, ResizeAndPadImage, SaveAnimatedPNG, "
        "SaveAnimatedWEBP, SaveImage, SaveSVGNode, SaveVideo, SaveWEBM, WebcamCapture "
    ),
    "latent": (
        "BatchLatentsNode, EmptyAceStepLatentAudio, EmptyChromaRadianceLatentImage, EmptyCosmosLatentVideo, "
        "EmptyFlux2LatentImage, EmptyHunyuanImageLatent, EmptyHunyuanLatentVideo, EmptyLTXVLatentVideo, "
        "EmptyLatentAudio, EmptyLatentHunyuan3Dv2, EmptyLatentImage, EmptyMochiLatentVideo, "
        "EmptyQwenImageLayeredLatentImage, EmptySD3LatentImage, HunyuanVideo15LatentUpscaleWithModel, "
        "LTXVConcatAVLatent, LTXVEmptyLatentAudio, LTXVLatentUpsampler, LTXVSeparateAVLatent, LatentAdd, "
        "LatentApplyOperation, LatentApplyOperationCFG, LatentBatch, LatentBatchSeedBehavior, "
        "LatentComposite, LatentCompositeMasked, LatentConcat, LatentCrop, LatentCut, LatentCutToBatch, "
        "LatentFlip, LatentFromBatch, LatentInterpolate, LatentMultiply, LatentOperationSharpen, "
        "LatentOperationTonemapReinhard, LatentRotate, LatentSubtract, LatentUpscale, LatentUpscaleBy, "
        "RebatchLatents, RepeatLatentBatch, ReplaceVideoLatentFrames, SetLatentNoiseMask, "
        "StableCascade_EmptyLatentImage, StableCascade_StageC_VAEEncode, TrimVideoLatent, VAEDecode, "
        "VAEDecodeAudio, VAEDecodeHunyuan3D, VAEEncode, VAEEncodeAudio, VAEEncodeForInpaint "
    ),
    "loaders": (
        "AudioEncoderLoader, CLIPLoader, CLIPVisionLoader, CheckpointLoader, CheckpointLoaderSimple, "
        "ControlNetLoader, DiffControlNetLoader, DiffusersLoader, DualCLIPLoader, GLIGENLoader, "
        "HypernetworkLoader, ImageOnlyCheckpointLoader, LTXAVTextEncoderLoader, LatentUpscaleModelLoader, "
        "LoadImageSetFromFolderNode, LoadImageTextSetFromFolderNode, LoraLoader, LoraLoaderModelOnly, "
        "LoraModelLoader, ModelPatchLoader, QuadrupleCLIPLoader, QwenImageDiffsynthControlnet, SaveLoRA, "
        "SaveLoRANode, StyleModelLoader, TripleCLIPLoader, UNETLoader, UpscaleModelLoader, VAELoader, "
        "ZImageFunControlnet, unCLIPCheckpointLoader "
    ),
    "logic": ("ComfySwitchNode "),
    "mask": (
        "BatchMasksNode, CropMask, FeatherMask, GrowMask, ImageColorToMask, ImageToMask, InvertMask, "
        "JoinImageWithAlpha, LoadImageMask, MaskComposite, MaskPreview, MaskToImage, "
        "PorterDuffImageComposite, SolidMask, SplitImageWithAlpha, ThresholdMask "
    ),
    "model": (
        "ModelSamplingAuraFlow, ModelSamplingContinuousEDM, ModelSamplingContinuousV, ModelSamplingDiscrete, "
        "ModelSamplingFlux, ModelSamplingLTXV, ModelSamplingSD3, ModelSamplingStableCascade, RenormCFG, "
        "RescaleCFG "
    ),
    "model_merging": (
        "CLIPMergeAdd, CLIPMergeSimple, CLIPMergeSubtract, CLIPSave, CheckpointSave, ImageOnlyCheckpointSave, "
        "ModelMergeAdd, ModelMergeAuraflow, ModelMergeBlocks, ModelMergeCosmos14B, ModelMergeCosmos7B, "
        "ModelMergeCosmosPredict2_14B, ModelMergeCosmosPredict2_2B, ModelMergeFlux1, ModelMergeLTXV, "
        "ModelMergeMochiPreview, ModelMergeQwenImage, ModelMergeSD1, ModelMergeSD2, ModelMergeSD35_Large, "
        "ModelMergeSD3_2B, ModelMergeSDXL, ModelMergeSimple, ModelMergeSubtract, ModelMergeWAN2_1, ModelSave, "
        "VAESave "
    ),
    "model_patches": (
        "ChromaRadianceOptions, Epsilon Scaling, FreeU, FreeU_V2, HyperTile, PatchModelAddDownscale, "
        "PerturbedAttentionGuidance, ScaleROPE, TemporalScoreRescaling, TomePatchModel, USOStyleReference "
    ),
    "other": (
        "AddTextPrefix, AddTextSuffix, AdjustBrightness, AdjustContrast, CenterCropImages, "
        "EmptyHunyuanVideo15Latent, HunyuanRefinerLatent, HunyuanVideo15SuperResolution, ImageDeduplication, "
        "ImageGrid, MergeImageLists, MergeTextLists, NormalizeImages, RandomCropImages, ReplaceText, "
        "ResizeImagesByLongerEdge, ResizeImagesByShorterEdge, ShuffleDataset, StripWhitespace, "
        "TextToLowercase, TextToUppercase, TruncateText, WanContextWindowsManual, wanBlockSwap "
    ),
    "sampling": (
        "APG, AlignYourStepsScheduler, BasicGuider, BasicScheduler, BetaSamplingScheduler, CFGGuider, "
        "DisableNoise, DualCFGGuider, ExponentialScheduler, ExtendIntermediateSigmas, FlipSigmas, "
        "Flux2Scheduler, GITSScheduler, KSampler, KSamplerAdvanced, KSamplerSelect, KarrasScheduler, "
        "LTXVScheduler, LaplaceScheduler, OptimalStepsScheduler, PolyexponentialScheduler, RandomNoise, "
        "SDTurboScheduler, SamplerCustom, SamplerCustomAdvanced, SamplerDPMAdaptative, SamplerDPMPP_2M_SDE, "
        "SamplerDPMPP_2S_Ancestral, SamplerDPMPP_3M_SDE, SamplerDPMPP_SDE, SamplerER_SDE, "
        "SamplerEulerAncestral, SamplerEulerAncestralCFGPP, SamplerLCMUpscale, SamplerLMS, SamplerSASolver, "
        "SamplerSEEDS2, SamplingPercentToSigma, SetFirstSigma, SplitSigmas, SplitSigmasDenoise, VPScheduler, "
        "VideoLinearCFGGuidance, VideoTriangleCFGGuidance "
    ),
    "testing": (
        "AddNoise, CLIPAttentionMultiply, CLIPTextEncodeControlnet, DifferentialDiffusion, FreSca, "
        "LatentBlend, LoadLatent, LoraSave, Mahiro, ManualSigmas, PerpNeg, PerpNegGuider, PhotoMakerEncode, "
        "PhotoMakerLoader, SamplerEulerCFGpp, SaveLatent, SelfAttentionGuidance, "
        "StableCascade_SuperResolutionControlnet, T5TokenizerOptions, TorchCompileModel, "
        "UNetCrossAttentionMultiply, UNetSelfAttentionMultiply, UNetTemporalAttentionMultiply, "
        "VAEDecodeTiled, VAEEncodeTiled "
    ),
    "training": ("LossGraphNode, TrainLoraNode "),
    "transform": ("ResizeImageMaskNode "),
    "utils": (
        "CaseConverter, CustomCombo, PreviewAny, PrimitiveBoolean, PrimitiveFloat, PrimitiveInt, "
        "PrimitiveString, PrimitiveStringMultiline, RegexExtract, RegexMatch, RegexReplace, StringCompare, "
        "StringConcatenate, StringContains, StringLength, StringReplace, StringSubstring, StringTrim "
    ),
}

# Those that only one of the versions has.
ADDED = (
    "AddTextPrefix, AddTextSuffix, AdjustBrightness, AdjustContrast, BatchImagesNode, BatchLatentsNode, "
    "BatchMasksNode, CLIPTextEncodeKandinsky5, CenterCropImages, ComfySwitchNode, CustomCombo, "
    "EmptyFlux2LatentImage, EmptyHunyuanVideo15Latent, EmptyQwenImageLayeredLatentImage, Flux2Scheduler, "
    "GeminiImage2Node, GenerateTracks, HunyuanVideo15ImageToVideo, HunyuanVideo15LatentUpscaleWithModel, "
    "HunyuanVideo15SuperResolution, ImageDeduplication, ImageGrid, Kandinsky5ImageToVideo, "
    "KlingImageToVideoWithAudio, KlingMotionControl, KlingOmniProEditVideoNode, "
    "KlingOmniProFirstLastFrameNode, KlingOmniProImageNode, KlingOmniProImageToVideoNode, "
    "KlingOmniProTextToVideoNode, KlingOmniProVideoToVideoNode, KlingTextToVideoWithAudio, "
    "LTXAVTextEncoderLoader, LTXVAudioVAEDecode, LTXVAudioVAEEncode, LTXVAudioVAELoader, "
    "LTXVConcatAVLatent, LTXVEmptyLatentAudio, LTXVImgToVideoInplace, LTXVLatentUpsampler, "
    "LTXVSeparateAVLatent, LatentCutToBatch, LatentUpscaleModelLoader, LoadImageDataSetFromFolder, "
    "LoadImageTextDataSetFromFolder, LoadTrainingDataset, LtxvApiImageToVideo, LtxvApiTextToVideo, "
    "MakeTrainingDataset, ManualSigmas, MergeImageLists, MergeTextLists, NormalizeImages, "
    "NormalizeVideoLatentStart, RandomCropImages, ReplaceText, ReplaceVideoLatentFrames, "
    "ResizeImageMaskNode, ResizeImagesByLongerEdge, ResizeImagesByShorterEdge, ResolutionBucket, "
    "SamplerSEEDS2, SaveImageDataSetToFolder, SaveImageTextDataSetToFolder, SaveLoRA, "
    "SaveTrainingDataset, ScaleROPE, ShuffleDataset, ShuffleImageTextDataset, StripWhitespace, "
    "TemporalScoreRescaling, TextToLowercase, TextToUppercase, TopazImageEnhance, TopazVideoEnhance, "
    "TruncateText, Veo3FirstLastFrameNode, WanMoveConcatTrack, WanMoveTrackToVideo, "
    "WanMoveTracksFromCoords, WanMoveVisualizeTracks, WanReferenceVideoApi, ZImageFunControlnet, "
    "wanBlockSwap "
)
REMOVED = (
    "FluxProCannyNode, FluxProDepthNode, Load3DAnimation, LoadImageSetFromFolderNode, "
    "LoadImageTextSetFromFolderNode, PikaImageToVideoNode2_2, PikaScenesV2_2, PikaStartEndFrameNode2_2, "
    "PikaTextToVideoNode2_2, Pikadditions, Pikaffects, Pikaswaps, Preview3DAnimation, SaveLoRANode "
)
