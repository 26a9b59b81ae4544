package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

// Long enough to pull and unpack the largest image (6 GB) on two slow cores.
const criTimeout = 20 * time.Minute

// newCRICommand asks the container runtime what kubelet would ask it: kubelet itself never pulls a tag again that the
// node already has, and leaves pods behind when it is stopped.
func newCRICommand() *cobra.Command {
	var socket string
	command := &cobra.Command{Use: "cri", Short: "Pull images and clear pods of a node through its runtime socket", SilenceUsage: true}
	command.PersistentFlags().StringVar(&socket, "socket", "", "runtime endpoint, as unix:///path")
	_ = command.MarkPersistentFlagRequired("socket")
	command.AddCommand(
		&cobra.Command{
			Use: "pull IMAGE...", Args: cobra.MinimumNArgs(1), Short: "Pull each image, also one whose tag has moved",
			RunE: func(command *cobra.Command, images []string) error { return pull(command, socket, images) },
		},
		&cobra.Command{
			Use: "clear", Args: cobra.NoArgs, Short: "Stop and remove every pod",
			RunE: func(command *cobra.Command, _ []string) error { return clearPods(command, socket) },
		},
	)
	return command
}

func pull(command *cobra.Command, socket string, images []string) error {
	service, err := cri.NewRemoteImageService(socket, criTimeout, nil, nil)
	if err != nil {
		return err
	}
	for _, image := range images {
		digest, err := service.PullImage(command.Context(), &runtimeapi.ImageSpec{Image: image}, nil, nil)
		if err != nil {
			return fmt.Errorf("pulling %s: %w", image, err)
		}
		fmt.Println(image, digest)
	}
	return nil
}

func clearPods(command *cobra.Command, socket string) error {
	service, err := cri.NewRemoteRuntimeService(socket, criTimeout, nil, nil)
	if err != nil {
		return err
	}
	pods, err := service.ListPodSandbox(command.Context(), nil)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if err := service.StopPodSandbox(command.Context(), pod.Id); err != nil {
			return fmt.Errorf("stopping pod %s: %w", pod.Metadata.Name, err)
		}
		if err := service.RemovePodSandbox(command.Context(), pod.Id); err != nil {
			return fmt.Errorf("removing pod %s: %w", pod.Metadata.Name, err)
		}
	}
	return nil
}
