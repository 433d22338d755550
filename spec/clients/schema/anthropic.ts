// An error as Anthropic's client has it, which is made from Anthropic's OpenAPI document.
import type { ErrorResponse } from "@anthropic-ai/sdk/resources/shared";

export interface Published {
  // One that comes in an event has no request of its own.
  error: Omit<ErrorResponse, "request_id">;
}
