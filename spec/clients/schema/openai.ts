// The types of replies as OpenAI's client has them, which is made from OpenAI's OpenAPI document.
import type { Completion } from "openai/resources/completions";
import type { ChatCompletion, ChatCompletionChunk } from "openai/resources/chat/completions";
import type { CreateEmbeddingResponse } from "openai/resources/embeddings";
import type { Model } from "openai/resources/models";
import type { ErrorObject } from "openai/resources/shared";
import type { ResponseErrorEvent } from "openai/resources/responses/responses";

export interface Published {
  error: { error: ErrorObject };
  models: { object: "list"; data: Model[] };
  completion: Completion;
  chat: ChatCompletion;
  chunk: ChatCompletionChunk;
  embeddings: CreateEmbeddingResponse;
  responseError: ResponseErrorEvent;
}
