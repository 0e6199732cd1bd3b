"""Model classes for SGLang: `SGLANG_EXTERNAL_MODEL_PACKAGE=eda_service.export.sglang_models`.

SGLang imports each module here and registers its `EntryClass`.
"""
